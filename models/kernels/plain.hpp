#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "models/kernels/block_attention.hpp"
#include "models/kernels/cached_attention.hpp"
#include "models/kernels/grouped_gemm.hpp"
#include "models/kernels/swiglu.hpp"
#include "models/kernels/token_copies.hpp"

/// Kernels of this folder in tensor operations alone, for tensors on any device and in any floating
/// dtype: functions of the types, names and contracts of those beside, but that sums are in
/// libtorch's order. They are the references of the copies of tokens; attention and products of
/// experts serve on GPUs, the others where no kernel of our own does.
namespace tailor::models::kernels::plain {

decltype(kernels::swiglu_backward) swiglu_backward;

decltype(kernels::copy_tokens) copy_tokens;
decltype(kernels::sum_copies) sum_copies;  // differentiable
decltype(kernels::sum_copies_backward) sum_copies_backward;

/// A document at a time, in blocks of queries, so that memory grows with a document's length and
/// not with its square.
decltype(kernels::block_attention) block_attention;
decltype(kernels::block_attention_backward) block_attention_backward;

decltype(kernels::append_to_cache) append_to_cache;
/// Sequences with equally many new tokens are one batch, filled up to the longest of them: what
/// stands beside a sequence can change its last bits.
at::Tensor cached_attention(const at::Tensor& q_TNH, const CacheBlocks& cache,
                            std::span<const CachedSequence> sequences, double scale);

/// bfloat16 products of matrices that lie one behind the other, of sizes that are multiples of
/// kGroupedMultiple, are one call, at::_grouped_mm; others one an expert.
decltype(kernels::grouped_forward) grouped_forward;
decltype(kernels::grouped_backward_) grouped_backward_;

constexpr std::int64_t kGroupedMultiple = 8;  // 16 bytes, what at::_grouped_mm asks of rows
/// The ends of the experts' rows as at::_grouped_mm takes them: int32 on `device`.
at::Tensor row_ends(std::span<const std::int64_t> row_offsets, at::Device device);

}  // namespace tailor::models::kernels::plain
