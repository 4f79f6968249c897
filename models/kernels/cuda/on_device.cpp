// Builds with CUDA: tensors on a GPU go to the kernels beside this file.
#include "models/kernels/on_device.hpp"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "models/kernels/cuda/launch.hpp"

namespace tailor::models::kernels::on_device {
namespace {

/// launch(T(), stream) of the tensor's type, on its GPU.
template <class Launch>
void launch_for(const at::Tensor& x, const Launch& launch) {
  const auto dtype = x.scalar_type();
  TORCH_CHECK_VALUE(x.is_cuda(), "no kernels for ", x.device(), " in a build with CUDA");
  TORCH_CHECK_VALUE(dtype == at::kFloat || dtype == at::kBFloat16,
                    "kernels on a GPU take float32 or bfloat16, got ", dtype);
  const c10::cuda::CUDAGuard guard(x.device());
  const auto stream = c10::cuda::getCurrentCUDAStream().stream();
  if (dtype == at::kBFloat16)
    launch(c10::BFloat16(), stream);
  else
    launch(float(), stream);
  C10_CUDA_CHECK(cudaGetLastError());
}

template <class T>
const T* pointer(const std::optional<at::Tensor>& x) {
  return x ? x->const_data_ptr<T>() : nullptr;
}

cuda::Slots slots_of(const at::Tensor& row_of_TK) {
  return {row_of_TK.const_data_ptr<std::int64_t>(), row_of_TK.size(0), row_of_TK.size(1)};
}

}  // namespace

NormedRows rms_norm(const at::Tensor& x_TD, const std::optional<at::Tensor>& delta_TD,
                    const at::Tensor& weight_D, double eps) {
  NormedRows out{delta_TD ? at::empty_like(x_TD) : x_TD, at::empty_like(x_TD),
                 at::empty({x_TD.size(0)}, x_TD.options().dtype(at::kFloat))};
  launch_for(x_TD, [&]<class T>(T /*of rows*/, cuda::Stream stream) {
    cuda::rms_norm(x_TD.const_data_ptr<T>(), pointer<T>(delta_TD), weight_D.const_data_ptr<float>(),
                   static_cast<float>(eps), delta_TD ? out.h_TD.mutable_data_ptr<T>() : nullptr,
                   out.y_TD.mutable_data_ptr<T>(), out.rstd_T.mutable_data_ptr<float>(),
                   x_TD.size(0), x_TD.size(1), stream);
  });
  return out;
}

at::Tensor rms_norm_backward(const at::Tensor& dy_TD, const std::optional<at::Tensor>& dh_TD,
                             const at::Tensor& h_TD, const at::Tensor& weight_D,
                             const at::Tensor& rstd_T) {
  auto dx_TD = at::empty_like(h_TD);
  launch_for(h_TD, [&]<class T>(T /*of rows*/, cuda::Stream stream) {
    cuda::rms_norm_backward(dy_TD.const_data_ptr<T>(), pointer<T>(dh_TD), h_TD.const_data_ptr<T>(),
                            weight_D.const_data_ptr<float>(), rstd_T.const_data_ptr<float>(),
                            dx_TD.mutable_data_ptr<T>(), h_TD.size(0), h_TD.size(1), stream);
  });
  return dx_TD;
}

at::Tensor rotate(const at::Tensor& x_TNH, const at::Tensor& cos_TF, const at::Tensor& sin_TF,
                  bool inverse) {
  auto y_TNH = at::empty(x_TNH.sizes(), x_TNH.options());
  launch_for(x_TNH, [&]<class T>(T /*of rows*/, cuda::Stream stream) {
    cuda::rotate(x_TNH.const_data_ptr<T>(), x_TNH.stride(0), cos_TF.const_data_ptr<float>(),
                 sin_TF.const_data_ptr<float>(), inverse ? -1.0F : 1.0F,
                 y_TNH.mutable_data_ptr<T>(), x_TNH.size(0), x_TNH.size(1), cos_TF.size(1), stream);
  });
  return y_TNH;
}

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  auto y = at::empty_like(gate);
  launch_for(gate, [&]<class T>(T /*of numbers*/, cuda::Stream stream) {
    cuda::swiglu(gate.const_data_ptr<T>(), up.const_data_ptr<T>(), y.mutable_data_ptr<T>(),
                 gate.numel(), stream);
  });
  return y;
}

std::pair<at::Tensor, at::Tensor> swiglu_backward(const at::Tensor& dy, const at::Tensor& gate,
                                                  const at::Tensor& up) {
  auto dgate = at::empty_like(gate), dup = at::empty_like(gate);
  launch_for(gate, [&]<class T>(T /*of numbers*/, cuda::Stream stream) {
    cuda::swiglu_backward(dy.const_data_ptr<T>(), gate.const_data_ptr<T>(), up.const_data_ptr<T>(),
                          dgate.mutable_data_ptr<T>(), dup.mutable_data_ptr<T>(), gate.numel(),
                          stream);
  });
  return {dgate, dup};
}

at::Tensor copy_tokens(const at::Tensor& x_TD, const at::Tensor& row_of_TK, std::int64_t num_rows) {
  auto copies_MD = at::empty({num_rows, x_TD.size(1)}, x_TD.options());
  launch_for(x_TD, [&]<class T>(T /*of rows*/, cuda::Stream stream) {
    cuda::copy_tokens(x_TD.const_data_ptr<T>(), slots_of(row_of_TK),
                      copies_MD.mutable_data_ptr<T>(), x_TD.size(1), stream);
  });
  return copies_MD;
}

at::Tensor sum_copies(const at::Tensor& rows_MD, const at::Tensor& row_of_TK,
                      const at::Tensor& weights_TK) {
  auto y_TD = at::empty({row_of_TK.size(0), rows_MD.size(1)}, rows_MD.options());
  const auto weights = weights_TK.defined() ? weights_TK.contiguous() : weights_TK;
  launch_for(rows_MD, [&]<class T>(T /*of rows*/, cuda::Stream stream) {
    cuda::sum_copies(rows_MD.const_data_ptr<T>(), slots_of(row_of_TK),
                     weights.defined() ? weights.const_data_ptr<float>() : nullptr,
                     y_TD.mutable_data_ptr<T>(), rows_MD.size(1), stream);
  });
  return y_TD;
}

std::pair<at::Tensor, at::Tensor> sum_copies_backward(const at::Tensor& dy_TD,
                                                      const at::Tensor& rows_MD,
                                                      const at::Tensor& row_of_TK,
                                                      const at::Tensor& weights_TK) {
  auto drows_MD = at::empty_like(rows_MD);
  auto dweights_TK = at::empty(row_of_TK.sizes(), weights_TK.options());
  const auto weights = weights_TK.contiguous();
  launch_for(rows_MD, [&]<class T>(T /*of rows*/, cuda::Stream stream) {
    cuda::sum_copies_backward(dy_TD.const_data_ptr<T>(), rows_MD.const_data_ptr<T>(),
                              slots_of(row_of_TK), weights.const_data_ptr<float>(),
                              drows_MD.mutable_data_ptr<T>(), dweights_TK.mutable_data_ptr<float>(),
                              rows_MD.size(1), stream);
  });
  return {drows_MD, dweights_TK};
}

TokenLosses token_loss_(at::Tensor& logits_CV, const at::Tensor& target_C, bool gradient) {
  const auto target = target_C.contiguous();
  const TokenLosses out{at::empty({logits_CV.size(0)}, logits_CV.options().dtype(at::kFloat)),
                        at::empty({logits_CV.size(0)}, logits_CV.options().dtype(at::kBool))};
  launch_for(logits_CV, [&]<class T>(T /*of rows*/, cuda::Stream stream) {
    cuda::token_loss(logits_CV.mutable_data_ptr<T>(), target.const_data_ptr<std::int64_t>(),
                     gradient, out.loss_C.mutable_data_ptr<float>(),
                     out.correct_C.mutable_data_ptr<bool>(), logits_CV.size(0), logits_CV.size(1),
                     stream);
  });
  return out;
}

}  // namespace tailor::models::kernels::on_device
