#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "models/kernels/weight.hpp"

namespace tailor::peft {

/// One projection: y = W x + bias + scale B A (mask * x).
struct LoraOperands {
  const models::kernels::Weight* weight;  // frozen (O, I); outlives the graph
  std::optional<at::Tensor> bias_O;       // frozen
  at::Tensor A_RI, B_OR;                  // trainable, float32
  double scale;
  at::Tensor mask_TI;  // dropout: 0 or 1 / (1 - p); undefined where nothing is dropped
};

/// y[i] (T, O_i) for projections of one input x (T, I). One node of the graph: saves x once and the
/// thin products, never makes a gradient for W, and adds all parts of dx into one tensor:
///   y = x W^T + b + s (x A^T) B^T,  dh = s dy B,  dA = dh^T x,  dB = s dy^T h,  dx = dy W + dh A.
/// Projections without a mask share one product with the stacked A. Gradients of the factors are
/// accumulated in float32.
std::vector<at::Tensor> lora_linear(const at::Tensor& x_TI, std::span<const LoraOperands> layers);

/// The same from tensor operations and autograd's own rules; for tests.
std::vector<at::Tensor> lora_linear_reference(const at::Tensor& x_TI,
                                              std::span<const LoraOperands> layers);

}  // namespace tailor::peft
