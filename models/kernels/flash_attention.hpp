#pragma once

#include "models/kernels/block_attention.hpp"

namespace tailor::models::kernels {

/// libtorch's FlashAttention (Dao 2023, arXiv:2307.08691) on GPUs: all documents in one call.
/// bfloat16, heads of up to 256 in multiples of 8, values no wider than keys, no shared prefixes.
bool takes_flash_attention(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                           const at::Tensor& v_TKV, const Documents& documents);
/// Where it does, this is block_attention(); log_sum_TN is then (N, T), for the backward here
/// alone.
decltype(block_attention) flash_attention;
/// In libtorch's deterministic way, whose order of sums is fixed.
decltype(block_attention_backward) flash_attention_backward;

}  // namespace tailor::models::kernels
