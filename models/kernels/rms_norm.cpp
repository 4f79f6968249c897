// T rows, D row size.
#include "models/kernels/rms_norm.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "models/kernels/rms_norm.cpp"
#include <hwy/foreach_target.h>
// after foreach_target
#include "models/kernels/simd-inl.hpp"

#include <cmath>

HWY_BEFORE_NAMESPACE();
namespace tailor::models::kernels::HWY_NAMESPACE {

template <class T>
float forward_row(const T* x, const T* delta, const float* w, double eps, T* h, T* y,
                  std::int64_t size) {
  const Floats d;
  auto squares = hn::Zero(d);
  float rest = 0.0F;
  if (delta != nullptr) {
    for_row(
        d, size,
        [&](std::int64_t i) { store(d, hn::Add(load(d, x + i), load(d, delta + i)), h + i); },
        [&](std::int64_t i) {
          h[i] = static_cast<T>(static_cast<float>(x[i]) + static_cast<float>(delta[i]));
        });
  }
  const T* row = delta != nullptr ? h : x;
  for_row(
      d, size,
      [&](std::int64_t i) {
        const auto v = load(d, row + i);
        squares = hn::MulAdd(v, v, squares);
      },
      [&](std::int64_t i) { rest += static_cast<float>(row[i]) * static_cast<float>(row[i]); });
  const auto mean = (hn::GetLane(hn::SumOfLanes(d, squares)) + rest) / static_cast<float>(size);
  const auto rstd = 1.0F / std::sqrt(mean + static_cast<float>(eps));
  const auto r = hn::Set(d, rstd);
  for_row(
      d, size,
      [&](std::int64_t i) {
        store(d, hn::Mul(hn::Mul(load(d, row + i), r), hn::LoadU(d, w + i)), y + i);
      },
      [&](std::int64_t i) { y[i] = static_cast<T>(static_cast<float>(row[i]) * rstd * w[i]); });
  return rstd;
}

template <class T>
void backward_row(const T* dy, const T* dh, const T* h, const float* w, float rstd, T* dx,
                  std::int64_t size) {
  const Floats d;
  auto dots = hn::Zero(d);
  float rest = 0.0F;
  for_row(
      d, size,
      [&](std::int64_t i) {
        const auto g = hn::Mul(load(d, dy + i), hn::LoadU(d, w + i));
        dots = hn::MulAdd(g, load(d, h + i), dots);
      },
      [&](std::int64_t i) { rest += w[i] * static_cast<float>(dy[i]) * static_cast<float>(h[i]); });
  const auto mean = (hn::GetLane(hn::SumOfLanes(d, dots)) + rest) / static_cast<float>(size);
  const auto c = rstd * rstd * mean;
  const auto vc = hn::Set(d, c), vr = hn::Set(d, rstd);
  for_row(
      d, size,
      [&](std::int64_t i) {
        const auto g = hn::Mul(load(d, dy + i), hn::LoadU(d, w + i));
        auto v = hn::Mul(vr, hn::NegMulAdd(load(d, h + i), vc, g));
        if (dh != nullptr) v = hn::Add(v, load(d, dh + i));
        store(d, v, dx + i);
      },
      [&](std::int64_t i) {
        auto v = rstd * (w[i] * static_cast<float>(dy[i]) - static_cast<float>(h[i]) * c);
        if (dh != nullptr) v += static_cast<float>(dh[i]);
        dx[i] = static_cast<T>(v);
      });
}

float forward_float(const float* x, const float* delta, const float* w, double eps, float* h,
                    float* y, std::int64_t size) {
  return forward_row(x, delta, w, eps, h, y, size);
}
float forward_bf16(const c10::BFloat16* x, const c10::BFloat16* delta, const float* w, double eps,
                   c10::BFloat16* h, c10::BFloat16* y, std::int64_t size) {
  return forward_row(x, delta, w, eps, h, y, size);
}
void backward_float(const float* dy, const float* dh, const float* h, const float* w, float rstd,
                    float* dx, std::int64_t size) {
  backward_row(dy, dh, h, w, rstd, dx, size);
}
void backward_bf16(const c10::BFloat16* dy, const c10::BFloat16* dh, const c10::BFloat16* h,
                   const float* w, float rstd, c10::BFloat16* dx, std::int64_t size) {
  backward_row(dy, dh, h, w, rstd, dx, size);
}

}  // namespace tailor::models::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/rsqrt.h>
#include <c10/util/Exception.h>

#include "models/kernels/on_device.hpp"

namespace tailor::models::kernels {
namespace {

HWY_EXPORT(forward_float);
HWY_EXPORT(forward_bf16);
HWY_EXPORT(backward_float);
HWY_EXPORT(backward_bf16);

// Dispatch by element type: an overload a dtype.
float forward_row(const float* x, const float* delta, const float* w, double eps, float* h,
                  float* y, std::int64_t size) {
  return HWY_DYNAMIC_DISPATCH(forward_float)(x, delta, w, eps, h, y, size);
}
float forward_row(const c10::BFloat16* x, const c10::BFloat16* delta, const float* w, double eps,
                  c10::BFloat16* h, c10::BFloat16* y, std::int64_t size) {
  return HWY_DYNAMIC_DISPATCH(forward_bf16)(x, delta, w, eps, h, y, size);
}
void backward_row(const float* dy, const float* dh, const float* h, const float* w, float rstd,
                  float* dx, std::int64_t size) {
  HWY_DYNAMIC_DISPATCH(backward_float)(dy, dh, h, w, rstd, dx, size);
}
void backward_row(const c10::BFloat16* dy, const c10::BFloat16* dh, const c10::BFloat16* h,
                  const float* w, float rstd, c10::BFloat16* dx, std::int64_t size) {
  HWY_DYNAMIC_DISPATCH(backward_bf16)(dy, dh, h, w, rstd, dx, size);
}

std::int64_t rows_a_task(std::int64_t size) {
  return 1 + 32768 / (size + 1);
}  // below, waking a thread costs more

void check(const at::Tensor& x_TD, const std::optional<at::Tensor>& other_TD,
           const at::Tensor& weight_D) {
  TORCH_CHECK_VALUE(x_TD.dim() == 2 && x_TD.is_contiguous() && weight_D.numel() == x_TD.size(1),
                    "rms_norm: rows must be contiguous (T, D) with a weight of D, got ",
                    x_TD.sizes(), " and ", weight_D.sizes());
  TORCH_CHECK_VALUE(!other_TD || (other_TD->sizes() == x_TD.sizes() && other_TD->is_contiguous() &&
                                  other_TD->scalar_type() == x_TD.scalar_type()),
                    "rms_norm: shapes or dtypes differ");
}

template <class T>
void forward_rows(const NormedRows& out, const at::Tensor& x_TD,
                  const std::optional<at::Tensor>& delta_TD, const at::Tensor& weight_D,
                  double eps) {
  // Raw pointers before the loop: worker threads may not touch tensors.
  const auto* x = x_TD.const_data_ptr<T>();
  const auto* delta = delta_TD ? delta_TD->const_data_ptr<T>() : nullptr;
  const auto* weight = weight_D.const_data_ptr<float>();
  auto* h = delta_TD ? out.h_TD.mutable_data_ptr<T>() : nullptr;
  auto* y = out.y_TD.mutable_data_ptr<T>();
  auto* rstd = out.rstd_T.mutable_data_ptr<float>();
  const auto size = x_TD.size(1);
  at::parallel_for(0, x_TD.size(0), rows_a_task(size), [&](std::int64_t begin, std::int64_t end) {
    for (auto t = begin; t < end; ++t) {
      const auto at = t * size;
      rstd[t] = forward_row(x + at, delta != nullptr ? delta + at : nullptr, weight, eps,
                            h != nullptr ? h + at : nullptr, y + at, size);
    }
  });
}

template <class T>
void backward_rows(at::Tensor& dx_TD, const at::Tensor& dy_TD,
                   const std::optional<at::Tensor>& dh_TD, const at::Tensor& h_TD,
                   const at::Tensor& weight_D, const at::Tensor& rstd_T) {
  const auto* dy = dy_TD.const_data_ptr<T>();
  const auto* dh = dh_TD ? dh_TD->const_data_ptr<T>() : nullptr;
  const auto* h = h_TD.const_data_ptr<T>();
  const auto* weight = weight_D.const_data_ptr<float>();
  const auto* rstd = rstd_T.const_data_ptr<float>();
  auto* dx = dx_TD.mutable_data_ptr<T>();
  const auto size = h_TD.size(1);
  at::parallel_for(0, h_TD.size(0), rows_a_task(size), [&](std::int64_t begin, std::int64_t end) {
    for (auto t = begin; t < end; ++t) {
      const auto at = t * size;
      backward_row(dy + at, dh != nullptr ? dh + at : nullptr, h + at, weight, rstd[t], dx + at,
                   size);
    }
  });
}

}  // namespace

NormedRows rms_norm(const at::Tensor& x_TD, const std::optional<at::Tensor>& delta_TD,
                    const at::Tensor& weight_D, double eps) {
  check(x_TD, delta_TD, weight_D);
  if (!x_TD.is_cpu()) return on_device::rms_norm(x_TD, delta_TD, weight_D, eps);
  NormedRows out{delta_TD ? at::empty_like(x_TD) : x_TD, at::empty_like(x_TD),
                 at::empty({x_TD.size(0)}, x_TD.options().dtype(at::kFloat))};
  if (x_TD.scalar_type() == at::kBFloat16) {
    forward_rows<c10::BFloat16>(out, x_TD, delta_TD, weight_D, eps);
  } else {
    forward_rows<float>(out, x_TD, delta_TD, weight_D, eps);
  }
  return out;
}

NormedRows rms_norm_reference(const at::Tensor& x_TD, const std::optional<at::Tensor>& delta_TD,
                              const at::Tensor& weight_D, double eps) {
  const auto h_TD = delta_TD ? x_TD + *delta_TD : x_TD;
  const auto exact_TD = h_TD.to(c10::promoteTypes(x_TD.scalar_type(), at::kFloat));
  const auto rstd_T1 = at::rsqrt(exact_TD.square().mean(1, /*keepdim=*/true) + eps);
  return {h_TD, (exact_TD * rstd_T1 * weight_D).to(x_TD.scalar_type()), rstd_T1.squeeze(1)};
}

at::Tensor rms_norm_backward(const at::Tensor& dy_TD, const std::optional<at::Tensor>& dh_TD,
                             const at::Tensor& h_TD, const at::Tensor& weight_D,
                             const at::Tensor& rstd_T) {
  check(h_TD, dh_TD, weight_D);
  check(h_TD, dy_TD, weight_D);
  if (!h_TD.is_cpu()) return on_device::rms_norm_backward(dy_TD, dh_TD, h_TD, weight_D, rstd_T);
  auto dx_TD = at::empty_like(h_TD);
  if (h_TD.scalar_type() == at::kBFloat16) {
    backward_rows<c10::BFloat16>(dx_TD, dy_TD, dh_TD, h_TD, weight_D, rstd_T);
  } else {
    backward_rows<float>(dx_TD, dy_TD, dh_TD, h_TD, weight_D, rstd_T);
  }
  return dx_TD;
}

at::Tensor rms_norm_backward_reference(const at::Tensor& dy_TD,
                                       const std::optional<at::Tensor>& dh_TD,
                                       const at::Tensor& h_TD, const at::Tensor& weight_D,
                                       const at::Tensor& rstd_T) {
  const auto exact = c10::promoteTypes(h_TD.scalar_type(), at::kFloat);
  const auto g_TD = dy_TD.to(exact) * weight_D.to(exact);
  const auto h = h_TD.to(exact), r_T1 = rstd_T.to(exact).unsqueeze(1);
  const auto c_T1 = r_T1.square() * (g_TD * h).mean(1, /*keepdim=*/true);
  auto dx_TD = r_T1 * (g_TD - h * c_T1);
  if (dh_TD) dx_TD = dx_TD + dh_TD->to(exact);
  return dx_TD.to(h_TD.scalar_type());
}

}  // namespace tailor::models::kernels
#endif  // HWY_ONCE
