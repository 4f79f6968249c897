#pragma once

#include <ATen/core/Tensor.h>

#include <utility>

namespace tailor::models::kernels {

/// y = silu(gate) up, silu(x) = x / (1 + exp(-x)) (Shazeer 2020, arXiv:2002.05202, eq. 5). Equal
/// shapes, contiguous, float32 or bfloat16; arithmetic float32.
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);
at::Tensor swiglu_reference(const at::Tensor& gate, const at::Tensor& up);

/// (d gate, d up):  dgate = dy up s (1 + gate (1 - s)),  dup = dy gate s,  s = sigmoid(gate).
std::pair<at::Tensor, at::Tensor> swiglu_backward(const at::Tensor& dy, const at::Tensor& gate,
                                                  const at::Tensor& up);

}  // namespace tailor::models::kernels
