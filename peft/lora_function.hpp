#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <span>
#include <vector>

#include "models/kernels/weight.hpp"
#include "peft/dropout.hpp"

namespace tailor::peft {

/// One projection: y = W x + bias + scale B A drop(x).
struct LoraOperands {
  const models::kernels::Weight* weight;  // frozen (O, I); outlives the graph
  std::optional<at::Tensor> bias_O;       // frozen
  at::Tensor A_RI, B_OR;                  // trainable, float32
  double scale;
  std::optional<Dropout> dropout;  // absent: nothing is dropped
};

/// y[i] (T, O_i) for projections of one input x (T, I), in x's dtype (that of the weights'
/// activations). One node of the graph: saves x once and the thin products, never makes a gradient
/// for W, and adds all parts of dx into one tensor:
///   y = x W^T + b + s h B^T,  h = x A^T,  dh = s dy B,  dA = dh^T x,  dB = s dy^T h,
///   dx = dy W + dh A
/// Projections that drop nothing share one product with the stacked A. In bfloat16 the thin
/// products read bfloat16 copies of the factors; sums over tokens, which are the gradients of the
/// factors, are float32 over blocks of 512 tokens, each block rounded to bfloat16 once.
std::vector<at::Tensor> lora_linear(const at::Tensor& x_TI, std::span<const LoraOperands> layers);

/// The same where the answers y[i] are there already, from the same factors and, up to rounding,
/// the same x, and in no graph: only h is computed, and the graph is built on them.
std::vector<at::Tensor> lora_linear_known(const at::Tensor& x_TI,
                                          std::span<const LoraOperands> layers,
                                          std::vector<at::Tensor> y);

/// The same in float64, from tensor operations and autograd's own rules; for tests.
std::vector<at::Tensor> lora_linear_reference(const at::Tensor& x_TI,
                                              std::span<const LoraOperands> layers);

}  // namespace tailor::peft
