#pragma once

#include "models/kernels/block_attention.hpp"

namespace tailor::models::kernels {

/// libtorch's FlashAttention (Dao 2023, arXiv:2307.08691) on GPUs: all documents in one call.
/// bfloat16, heads of up to 256 in multiples of 8, values no wider than keys, no shared prefixes.
bool takes_flash_attention(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                           const at::Tensor& v_TKV, const Documents& documents);
/// log_sum_TN is laid out as its backward wants it.
BlockAttention flash_attention(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                               const at::Tensor& v_TKV, const Documents& documents, double scale);
/// In libtorch's deterministic way, whose order of sums is fixed.
AttentionGradients flash_attention_backward(const at::Tensor& dout_TNV, const at::Tensor& q_TNH,
                                            const at::Tensor& k_TKH, const at::Tensor& v_TKV,
                                            const BlockAttention& forward,
                                            const Documents& documents, double scale);

}  // namespace tailor::models::kernels
