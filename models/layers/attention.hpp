#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "models/batch.hpp"
#include "models/kernels/block_attention.hpp"
#include "models/layers/rope.hpp"

namespace tailor::models {

/// softmax(scale q k^T) v within each document, token t seeing the document's prefix and its tokens
/// up to t, with q and k rotated by `angles` first; angles whose tensors are undefined turn
/// nothing, for callers that have rotated a part of each head themselves. Query head n reads
/// key/value head n / (N / K). q (T, N, H); k (T, K, H); v (T, K, V), V = H in most models; answers
/// (T, N, V) contiguous. `scale` is 1 / sqrt(H) unless given. One node of the graph.
at::Tensor causal_attention(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                            const at::Tensor& v_TKV, const RopeAngles& angles,
                            const kernels::Documents& documents, std::optional<double> scale = {});

/// The same from plain tensor operations; for tests.
at::Tensor causal_attention_reference(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                                      const at::Tensor& v_TKV, const RopeAngles& angles,
                                      const kernels::Documents& documents,
                                      std::optional<double> scale = {});

/// Decoding: rotates q and k, appends k and v to the batch's cache at `layer`, and attends to all
/// that the slots hold; the caller has reserved the positions. Blocks are as wide as keys; narrower
/// values are padded in them. Batches that share prefixes are refused: a slot holds its prefix. Not
/// differentiable.
at::Tensor cached_causal_attention(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                                   const at::Tensor& v_TKV, const RopeAngles& angles,
                                   const Batch& batch, std::int64_t layer,
                                   std::optional<double> scale = {});

}  // namespace tailor::models
