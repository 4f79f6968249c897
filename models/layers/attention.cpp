// T tokens of all documents, t of one; N query heads, K key/value heads, H width of a query's or
// key's head, V of a value's.
#include "models/layers/attention.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <limits>
#include <vector>

#include "models/kernels/block_attention.hpp"
#include "models/kernels/cached_attention.hpp"
#include "models/kernels/rotary.hpp"
#include "models/layers/kv_cache.hpp"

namespace tailor::models {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

double scale_of(const at::Tensor& q_TNH, std::optional<double> scale) {
  return scale.value_or(1.0 / std::sqrt(static_cast<double>(q_TNH.size(2))));
}

at::Tensor rotated(const at::Tensor& x_TNH, const RopeAngles& angles, bool inverse = false) {
  if (!angles.cos_TF.defined()) return x_TNH;
  return kernels::rotate(x_TNH, angles.cos_TF, angles.sin_TF, inverse);
}

/// Copies only what is not laid out token by token, as gradients of views may be.
at::Tensor by_token(const at::Tensor& x_TNH) {
  return x_TNH.stride(2) == 1 && x_TNH.stride(1) == x_TNH.size(2) ? x_TNH : x_TNH.contiguous();
}

struct CausalAttention : torch::autograd::Function<CausalAttention> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                            const at::Tensor& v_TKV, const RopeAngles& angles,
                            std::span<const std::int64_t> offsets, double scale) {
    const auto q = rotated(by_token(q_TNH), angles), k = rotated(by_token(k_TKH), angles);
    const auto v = v_TKV.contiguous();
    const auto result = kernels::block_attention(q, k, v, offsets, scale);
    ctx->save_for_backward(
        {q, k, v, result.out_TNV, result.log_sum_TN, angles.cos_TF, angles.sin_TF});
    ctx->saved_data["offsets"] = std::vector<std::int64_t>(offsets.begin(), offsets.end());
    ctx->saved_data["scale"] = scale;
    return result.out_TNV;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const auto saved = ctx->get_saved_variables();
    const RopeAngles angles{saved[5], saved[6]};
    const auto d = kernels::block_attention_backward(
        gradients[0].contiguous(), saved[0], saved[1], saved[2], {saved[3], saved[4]},
        ctx->saved_data["offsets"].toIntVector(), ctx->saved_data["scale"].toDouble());
    return {rotated(d.dq_TNH, angles, /*inverse=*/true),
            rotated(d.dk_TKH, angles, /*inverse=*/true),
            d.dv_TKV,
            {},
            {},
            {}};
  }
};

}  // namespace

at::Tensor causal_attention(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                            const at::Tensor& v_TKV, const RopeAngles& angles,
                            std::span<const std::int64_t> document_offsets,
                            std::optional<double> scale) {
  TORCH_CHECK_VALUE(!document_offsets.empty() && document_offsets.front() == 0 &&
                        document_offsets.back() == q_TNH.size(0),
                    "causal_attention: document_offsets must run from 0 to T = ", q_TNH.size(0));
  return CausalAttention::apply(q_TNH, k_TKH, v_TKV, angles, document_offsets,
                                scale_of(q_TNH, scale));
}

at::Tensor causal_attention_reference(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                                      const at::Tensor& v_TKV, const RopeAngles& angles,
                                      std::span<const std::int64_t> document_offsets,
                                      std::optional<double> scale) {
  const auto group = q_TNH.size(1) / k_TKH.size(1);
  const auto turned = [&](const at::Tensor& x_TNH) {
    if (!angles.cos_TF.defined()) return x_TNH;
    return kernels::rotate_reference(x_TNH, angles.cos_TF, angles.sin_TF);
  };
  const auto q_rotated = turned(q_TNH), k_rotated = turned(k_TKH);
  std::vector<at::Tensor> out;
  for (std::size_t d = 0; d + 1 < document_offsets.size(); ++d) {
    const auto begin = document_offsets[d], length = document_offsets[d + 1] - begin;
    const auto heads = [&](const at::Tensor& x, std::int64_t times) {
      return x.narrow(0, begin, length).repeat_interleave(times, 1).transpose(0, 1);
    };
    const auto score = heads(q_rotated, 1).matmul(heads(k_rotated, group).transpose(1, 2)) *
                       scale_of(q_TNH, scale);
    const auto visible = at::ones({length, length}, at::kBool).tril();
    const auto weight =
        score.masked_fill(visible.logical_not(), -std::numeric_limits<double>::infinity())
            .softmax(-1);
    out.push_back(weight.matmul(heads(v_TKV, group)).transpose(0, 1));
  }
  return at::cat(out);
}

at::Tensor cached_causal_attention(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                                   const at::Tensor& v_TKV, const RopeAngles& angles,
                                   const Batch& batch, std::int64_t layer,
                                   std::optional<double> scale) {
  const auto& offsets = batch.document_offsets;
  const auto* positions = batch.positions_T.const_data_ptr<std::int64_t>();
  std::vector<kernels::CachedSequence> sequences;
  bool all_new = true;
  for (std::size_t d = 0; d + 1 < offsets.size(); ++d) {
    const auto slot = batch.cache_slots[d];
    sequences.push_back({offsets[d], offsets[d + 1] - offsets[d], positions[offsets[d]],
                         batch.cache->keys(layer, slot), batch.cache->values(layer, slot)});
    all_new = all_new && sequences.back().start == 0;
  }
  const auto width = q_TNH.size(2), missing = width - v_TKV.size(2);
  const auto v = missing > 0 ? at::constant_pad_nd(v_TKV, {0, missing}) : v_TKV;
  kernels::append_to_cache(rotated(k_TKH, angles), v, sequences);
  // Prompts from their first token see nothing but each other: the blocked kernel is the faster
  // one.
  if (all_new) return causal_attention(q_TNH, k_TKH, v_TKV, angles, offsets, scale);
  const auto out =
      kernels::cached_attention(rotated(q_TNH, angles), sequences, scale_of(q_TNH, scale));
  return missing > 0 ? out.narrow(2, 0, v_TKV.size(2)).contiguous() : out;
}

}  // namespace tailor::models
