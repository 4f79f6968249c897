#pragma once

#include <ATen/core/Tensor.h>

namespace tailor::models::kernels {

/// Rotary embedding (Su et al. 2021, arXiv:2104.09864), halves layout: with a = x[:H/2], b =
/// x[H/2:],
///   y = [a cos - b sin, b cos + a sin];  inverse: the same with -sin, which is also the gradient.
/// x (T, N, H), heads and features contiguous, tokens at any stride; cos, sin (T, H/2) float32.
/// Answers a new contiguous (T, N, H) in x's dtype; arithmetic float32.
at::Tensor rotate(const at::Tensor& x_TNH, const at::Tensor& cos_TF, const at::Tensor& sin_TF,
                  bool inverse = false);
at::Tensor rotate_reference(const at::Tensor& x_TNH, const at::Tensor& cos_TF,
                            const at::Tensor& sin_TF, bool inverse = false);

}  // namespace tailor::models::kernels
