#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

namespace tailor::models::kernels {

/// Causal attention within documents, for training and prompts: out = softmax(scale q k^T) v, token
/// t of a document seeing its tokens up to t; query head n reads key/value head n / (N / K). q (T,
/// N, H), k (T, K, H), v (T, K, V), all contiguous per token, float32 or bfloat16; offsets {0, ...,
/// T}. Tasks are heads of documents, cut into blocks of queries so that nothing above the
/// diagonal's block is computed; scores and softmax are float32.
struct BlockAttention {
  at::Tensor out_TNV;     // q's dtype
  at::Tensor log_sum_TN;  // log of the softmax's denominator, float32, for backward
};
BlockAttention block_attention(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                               const at::Tensor& v_TKV, std::span<const std::int64_t> offsets,
                               double scale);

/// Gradients with respect to q, k and v. With P the softmax, dP = dout v^T and
/// D = rowsum(dout out):  dS = scale P (dP - D),  dq = dS k,  dk = dS^T q,  dv = P^T dout
/// (Dao et al. 2022, arXiv:2205.14135, appendix B.2). P is computed anew from q, k and log_sum.
struct AttentionGradients {
  at::Tensor dq_TNH, dk_TKH, dv_TKV;
};
AttentionGradients block_attention_backward(const at::Tensor& dout_TNV, const at::Tensor& q_TNH,
                                            const at::Tensor& k_TKH, const at::Tensor& v_TKV,
                                            const BlockAttention& forward,
                                            std::span<const std::int64_t> offsets, double scale);

}  // namespace tailor::models::kernels
