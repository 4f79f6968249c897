#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

namespace tailor::models::kernels {

/// Who sees whom among packed tokens. Document d is tokens offsets[d] up to offsets[d + 1] and
/// sees, besides its own tokens, all of the earlier document prefix_of[d]; -1, or an empty
/// prefix_of: it stands alone, as every prefix must.
struct Documents {
  std::span<const std::int64_t> offsets;  // {0, ..., T}
  std::span<const std::int64_t> prefix_of = {};
};

/// Throws ValueError that names `op` where the documents do not cover `num_tokens` in order, or a
/// prefix is no earlier document that stands alone.
void check_documents(const char* op, const Documents& documents, std::int64_t num_tokens);

/// Causal attention within documents, for training and prompts: out = softmax(scale q k^T) v, token
/// t of a document seeing its prefix and its own tokens up to t; query head n reads key/value head
/// n / (N / K). q (T, N, H), k (T, K, H), v (T, K, V), all contiguous per token, float32 or
/// bfloat16. Tasks are heads of documents, cut into blocks of queries so that nothing above the
/// diagonal's block is computed; scores and softmax, over prefix and own tokens at once, are
/// float32.
struct BlockAttention {
  at::Tensor out_TNV;     // q's dtype
  at::Tensor log_sum_TN;  // log of the softmax's denominator, float32, for backward; laid out by
                          // whichever kernel made it
};
BlockAttention block_attention(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                               const at::Tensor& v_TKV, const Documents& documents, double scale);

/// Gradients with respect to q, k and v. With P the softmax, dP = dout v^T and
/// D = rowsum(dout out):  dS = scale P (dP - D),  dq = dS k,  dk = dS^T q,  dv = P^T dout
/// (Dao et al. 2022, arXiv:2205.14135, appendix B.2). P is computed anew from q, k and log_sum.
/// Documents that share a prefix make one task a head, which adds their parts of its dk and dv in
/// their order: the bits do not depend on the number of threads.
struct AttentionGradients {
  at::Tensor dq_TNH, dk_TKH, dv_TKV;
};
AttentionGradients block_attention_backward(const at::Tensor& dout_TNV, const at::Tensor& q_TNH,
                                            const at::Tensor& k_TKH, const at::Tensor& v_TKV,
                                            const BlockAttention& forward,
                                            const Documents& documents, double scale);

}  // namespace tailor::models::kernels
