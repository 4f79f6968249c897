#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "models/kernels/weight.hpp"

namespace tailor::models::kernels {

/// Products of the experts of one projection, each with its own rows: rows row_offsets[e] up to
/// row_offsets[e + 1] belong to weights[e] (O, I). Experts without rows cost nothing. Threads take
/// whole experts or blocks of rows, so that every product runs on one thread at that thread's peak.

/// y (M, O): y_e = x_e W_e^T.
at::Tensor grouped_forward(const at::Tensor& x_MI, std::span<const std::int64_t> row_offsets,
                           std::span<const Weight> weights);
/// dx (M, I): dx_e = dy_e W_e; adds to `dx_MI` in place where it is defined, else makes it.
void grouped_backward_(at::Tensor& dx_MI, const at::Tensor& dy_MO,
                       std::span<const std::int64_t> row_offsets, std::span<const Weight> weights);

/// The same from one plain product an expert, on any device.
at::Tensor grouped_forward_reference(const at::Tensor& x_MI,
                                     std::span<const std::int64_t> row_offsets,
                                     std::span<const Weight> weights);

}  // namespace tailor::models::kernels
