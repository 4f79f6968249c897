#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "models/kernels/weight.hpp"

namespace tailor::peft {

/// One projection of all experts held here: y_e = W_e x_e + scale B_e A_e x_e. Either factor may be
/// one for all of them (Bridge's and Tinker's shared layouts).
struct GroupedLoraOperands {
  std::span<const models::kernels::Weight> weights;  // frozen (O, I) each; outlive the graph
  at::Tensor A;                                      // (E, R, I), or (R, I) shared; float32
  at::Tensor B;                                      // (E, O, R), or (O, R) shared; float32
  double scale;
};

/// y[i] (M, O_i) for projections of one input x (M, I), rows sorted by expert: rows row_offsets[e]
/// up to row_offsets[e + 1] belong to expert e. One node of the graph, per expert the equations of
/// lora_linear(): h_e = x_e A_e^T, y_e = x_e W_e^T + s h_e B_e^T, dh_e = s dy_e B_e,
/// dA_e = dh_e^T x_e, dB_e = s dy_e^T h_e, dx_e = dy_e W_e + dh_e A_e, and a shared factor has the
/// sum over experts. Never makes a gradient for W. An expert without rows has a zero gradient.
/// Activations are float32 or bfloat16; h, and all products and sums of the branch, are float32,
/// and the answer is rounded once. Threads take blocks of rows, for sums whole experts or parts of
/// their columns, so that no outcome depends on the number of threads. Rank 1 takes passes over
/// rows instead of products.
std::vector<at::Tensor> grouped_lora(const at::Tensor& x_MI,
                                     std::span<const std::int64_t> row_offsets,
                                     std::span<const GroupedLoraOperands> layers);

/// The same in float64, from tensor operations and autograd's own rules; for tests.
std::vector<at::Tensor> grouped_lora_reference(const at::Tensor& x_MI,
                                               std::span<const std::int64_t> row_offsets,
                                               std::span<const GroupedLoraOperands> layers);

}  // namespace tailor::peft
