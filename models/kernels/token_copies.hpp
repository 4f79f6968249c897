#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>

namespace tailor::models::kernels {

/// Rows of tokens copied to several places and added up again. float32 or bfloat16; sums are
/// float32 in the order of slots, and every number is written by one thread: equal bits from run to
/// run. row_of_TK (int64) is the row that holds slot k of token t, -1 where none does; each of the
/// M rows belongs to one slot. In plain operations: plain.hpp.

/// copies[row_of[t, k]] = x[t]: (T, D) -> (M, D).
at::Tensor copy_tokens(const at::Tensor& x_TD, const at::Tensor& row_of_TK, std::int64_t num_rows);
/// y[t] = sum_k weights[t, k] rows[row_of[t, k]]: (M, D), (T, K) float32 -> (T, D) in rows' dtype.
/// Without weights each is 1: the gradient of copy_tokens().
at::Tensor sum_copies(const at::Tensor& rows_MD, const at::Tensor& row_of_TK,
                      const at::Tensor& weights_TK = {});
/// (d rows, d weights) of sum_copies(): drows[row_of[t, k]] = weights[t, k] dy[t],
/// dweights[t, k] = dy[t] . rows[row_of[t, k]], float32, 0 where no row is.
std::pair<at::Tensor, at::Tensor> sum_copies_backward(const at::Tensor& dy_TD,
                                                      const at::Tensor& rows_MD,
                                                      const at::Tensor& row_of_TK,
                                                      const at::Tensor& weights_TK);

}  // namespace tailor::models::kernels
