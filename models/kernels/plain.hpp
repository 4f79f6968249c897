#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <utility>

#include "models/kernels/block_attention.hpp"
#include "models/kernels/cached_attention.hpp"
#include "models/kernels/weight.hpp"

/// Kernels of this folder in tensor operations alone, for tensors on any device; their contracts
/// are those of the functions of the same name, but that sums over rows are libtorch's. Those that
/// are good enough on a GPU serve there; the element-wise ones stand in where no kernel of our own
/// does.
namespace tailor::models::kernels::plain {

std::pair<at::Tensor, at::Tensor> swiglu_backward(const at::Tensor& dy, const at::Tensor& gate,
                                                  const at::Tensor& up);

at::Tensor copy_tokens(const at::Tensor& x_TD, const at::Tensor& row_of_TK, std::int64_t num_rows);
at::Tensor sum_copies(const at::Tensor& rows_MD, const at::Tensor& row_of_TK,
                      const at::Tensor& weights_TK = {});
std::pair<at::Tensor, at::Tensor> sum_copies_backward(const at::Tensor& dy_TD,
                                                      const at::Tensor& rows_MD,
                                                      const at::Tensor& row_of_TK,
                                                      const at::Tensor& weights_TK);

/// A document at a time, in blocks of queries, so that memory grows with a document's length and
/// not with its square.
BlockAttention block_attention(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                               const at::Tensor& v_TKV, const Documents& documents, double scale);
AttentionGradients block_attention_backward(const at::Tensor& dout_TNV, const at::Tensor& q_TNH,
                                            const at::Tensor& k_TKH, const at::Tensor& v_TKV,
                                            const BlockAttention& forward,
                                            const Documents& documents, double scale);

void append_to_cache(const at::Tensor& k_TKH, const at::Tensor& v_TKH, const CacheBlocks& cache,
                     std::span<const CachedSequence> sequences);
/// Sequences with equally many new tokens are one batch, filled up to the longest of them.
at::Tensor cached_attention(const at::Tensor& q_TNH, const CacheBlocks& cache,
                            std::span<const CachedSequence> sequences, double scale);

/// bfloat16 products of matrices that lie one behind the other, of sizes that are multiples of 8,
/// are one call, at::_grouped_mm; others one an expert.
at::Tensor grouped_forward(const at::Tensor& x_MI, std::span<const std::int64_t> row_offsets,
                           std::span<const Weight> weights);
void grouped_backward_(at::Tensor& dx_MI, const at::Tensor& dy_MO,
                       std::span<const std::int64_t> row_offsets, std::span<const Weight> weights);

/// The ends of the experts' rows as at::_grouped_mm takes them: int32 on `device`.
at::Tensor row_ends(std::span<const std::int64_t> row_offsets, at::Device device);

}  // namespace tailor::models::kernels::plain
