#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "models/batch.hpp"
#include "models/layers/rope.hpp"

namespace tailor::models {

/// softmax(q k^T / sqrt(H)) v within each document, token t seeing tokens up to t, with q and k
/// rotated by `angles` first. Query head n reads key/value head n / (N / K). q (T, N, H); k, v
/// (T, K, H); answers (T, N, H) contiguous. One node of the graph.
at::Tensor causal_attention(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                            const at::Tensor& v_TKH, const RopeAngles& angles,
                            std::span<const std::int64_t> document_offsets);

/// The same from plain tensor operations; for tests.
at::Tensor causal_attention_reference(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                                      const at::Tensor& v_TKH, const RopeAngles& angles,
                                      std::span<const std::int64_t> document_offsets);

/// Decoding: rotates q and k, appends k and v to the batch's cache at `layer`, and attends to all
/// that the slots hold. Not differentiable.
at::Tensor cached_causal_attention(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                                   const at::Tensor& v_TKH, const RopeAngles& angles,
                                   const Batch& batch, std::int64_t layer);

}  // namespace tailor::models
