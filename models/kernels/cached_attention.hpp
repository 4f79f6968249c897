#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "models/kernels/isa.hpp"

namespace tailor::models::kernels {

/// Keys and values of many sequences in blocks of P positions.
struct CacheBlocks {
  at::Tensor keys_BKPH, values_BKPH;  // contiguous, float32 or bfloat16
};

/// New tokens of one sequence, and the blocks that hold its keys and values: position p lies in
/// blocks[p / P], at p % P.
struct CachedSequence {
  std::int64_t begin, count;  // its rows of q, k and v
  std::int64_t start;         // position of the first of them: cached tokens before it
  std::span<const std::int64_t> blocks;
};

/// Writes rows of k and v (T, K, H) to positions start ... start + count - 1 of every sequence;
/// cast to the dtype of the blocks.
void append_to_cache(const at::Tensor& k_TKH, const at::Tensor& v_TKH, const CacheBlocks& cache,
                     std::span<const CachedSequence> sequences);

/// Attention of new tokens over what is cached, the new tokens' keys included (append first): the
/// token at position p sees positions 0 ... p of its own sequence. N query heads share K key heads,
/// N a multiple of K, query head n reads key head n / (N / K). softmax(scale q k) v in float32 from
/// float32 or bfloat16; answers (T, N, H), contiguous, in q's dtype. Every sequence of a step goes
/// into one call; a sequence's result has the same bits whatever stands beside it and
/// however long blocks are; rows of no sequence are left undefined. Not differentiable. Throws
/// c10::ValueError for shapes that do not fit.
at::Tensor cached_attention(const at::Tensor& q_TNH, const CacheBlocks& cache,
                            std::span<const CachedSequence> sequences, double scale,
                            Isa isa = available_isas().back());

/// The same in plain operations, in float64.
at::Tensor cached_attention_reference(const at::Tensor& q_TNH, const CacheBlocks& cache,
                                      std::span<const CachedSequence> sequences, double scale);

}  // namespace tailor::models::kernels
