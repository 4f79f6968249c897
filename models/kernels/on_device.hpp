#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <utility>

#include "models/kernels/rms_norm.hpp"
#include "models/kernels/token_loss.hpp"

namespace tailor::models::kernels {

/// Where the element-wise kernels of this folder send tensors that are not in host memory, once
/// they have checked shapes; the contracts are theirs. One of two files answers:
/// on_device_plain.cpp or, in a build with CUDA, cuda/on_device.cpp, which has kernels for the
/// tensors of GPUs.
namespace on_device {

NormedRows rms_norm(const at::Tensor& x_TD, const std::optional<at::Tensor>& delta_TD,
                    const at::Tensor& weight_D, double eps);
at::Tensor rms_norm_backward(const at::Tensor& dy_TD, const std::optional<at::Tensor>& dh_TD,
                             const at::Tensor& h_TD, const at::Tensor& weight_D,
                             const at::Tensor& rstd_T);
at::Tensor rotate(const at::Tensor& x_TNH, const at::Tensor& cos_TF, const at::Tensor& sin_TF,
                  bool inverse);
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);
std::pair<at::Tensor, at::Tensor> swiglu_backward(const at::Tensor& dy, const at::Tensor& gate,
                                                  const at::Tensor& up);
at::Tensor copy_tokens(const at::Tensor& x_TD, const at::Tensor& row_of_TK, std::int64_t num_rows);
at::Tensor sum_copies(const at::Tensor& rows_MD, const at::Tensor& row_of_TK,
                      const at::Tensor& weights_TK);
std::pair<at::Tensor, at::Tensor> sum_copies_backward(const at::Tensor& dy_TD,
                                                      const at::Tensor& rows_MD,
                                                      const at::Tensor& row_of_TK,
                                                      const at::Tensor& weights_TK);
TokenLosses token_loss_(at::Tensor& logits_CV, const at::Tensor& target_C, bool gradient);

}  // namespace on_device
}  // namespace tailor::models::kernels
