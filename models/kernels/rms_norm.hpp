#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace tailor::models::kernels {

/// h = x + delta (x alone where delta is absent), y = w h r with r = 1 / sqrt(mean(h^2) + eps) a
/// row (Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4). x, delta (T, D) contiguous, float32 or
/// bfloat16; w (D) float32. Arithmetic is float32; h is rounded to x's dtype before its norm is
/// taken.
struct NormedRows {
  at::Tensor h_TD;    // x itself where delta is absent
  at::Tensor y_TD;    // x's dtype
  at::Tensor rstd_T;  // float32
};
NormedRows rms_norm(const at::Tensor& x_TD, const std::optional<at::Tensor>& delta_TD,
                    const at::Tensor& weight_D, double eps);
NormedRows rms_norm_reference(const at::Tensor& x_TD, const std::optional<at::Tensor>& delta_TD,
                              const at::Tensor& weight_D, double eps);

/// Gradient with respect to h; w is frozen and gets none:
///   dx = dh + r (g - h r^2 mean(g h)),  g = w dy.
/// dh is what reaches h from elsewhere (the residual stream); absent counts as 0.
at::Tensor rms_norm_backward(const at::Tensor& dy_TD, const std::optional<at::Tensor>& dh_TD,
                             const at::Tensor& h_TD, const at::Tensor& weight_D,
                             const at::Tensor& rstd_T);
at::Tensor rms_norm_backward_reference(const at::Tensor& dy_TD,
                                       const std::optional<at::Tensor>& dh_TD,
                                       const at::Tensor& h_TD, const at::Tensor& weight_D,
                                       const at::Tensor& rstd_T);

}  // namespace tailor::models::kernels
