#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "models/kernels/isa.hpp"

namespace tailor::models::kernels {

/// New tokens of one sequence, and the slot that holds its keys and values.
struct CachedSequence {
  std::int64_t begin, count;        // its rows of q, k and v
  std::int64_t start;               // position of the first of them: cached tokens before it
  at::Tensor keys_CKH, values_CKH;  // views of the slot, C >= start + count, last dim contiguous
};

/// Writes rows of k and v (T, K, H) into positions start ... start + count - 1 of every slot; cast
/// to the dtype of the slot (float32 or bfloat16).
void append_to_cache(const at::Tensor& k_TKH, const at::Tensor& v_TKH,
                     std::span<const CachedSequence> sequences);

/// Attention of new tokens over their slots, the new tokens' keys included (append first): the
/// token at position p sees positions 0 ... p of its own sequence. N query heads share K key heads,
/// N a multiple of K, query head n reads key head n / (N / K). softmax(scale q k) v in float32 from
/// float32 or bfloat16; answers (T, N, H), contiguous, in q's dtype. Every sequence of a step goes
/// into one call; a sequence's result has the same bits whatever stands beside it. Not
/// differentiable. Throws c10::ValueError for shapes that do not fit.
at::Tensor cached_attention(const at::Tensor& q_TNH, std::span<const CachedSequence> sequences,
                            double scale, Isa isa = available_isas().back());

/// The same in plain operations, in float64.
at::Tensor cached_attention_reference(const at::Tensor& q_TNH,
                                      std::span<const CachedSequence> sequences, double scale);

}  // namespace tailor::models::kernels
