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

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <vector>

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

std::vector<std::int64_t> as_vector(std::span<const std::int64_t> x) {
  return {x.begin(), x.end()};
}

struct CausalAttention : torch::autograd::Function<CausalAttention> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                            const at::Tensor& v_TKV, const RopeAngles& angles,
                            const kernels::Documents& documents, double scale) {
    const auto q = rotated(by_token(q_TNH), angles), k = rotated(by_token(k_TKH), angles);
    const auto v = v_TKV.contiguous();
    const auto result = kernels::block_attention(q, k, v, documents, scale);
    ctx->save_for_backward(
        {q, k, v, result.out_TNV, result.log_sum_TN, angles.cos_TF, angles.sin_TF});
    ctx->saved_data["offsets"] = as_vector(documents.offsets);
    ctx->saved_data["prefix_of"] = as_vector(documents.prefix_of);
    ctx->saved_data["scale"] = scale;
    return result.out_TNV;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const auto saved = ctx->get_saved_variables();
    const RopeAngles angles{saved[5], saved[6]};
    const auto offsets = ctx->saved_data["offsets"].toIntVector(),
               prefix_of = ctx->saved_data["prefix_of"].toIntVector();
    const auto d = kernels::block_attention_backward(
        gradients[0].contiguous(), saved[0], saved[1], saved[2], {saved[3], saved[4]},
        {offsets, prefix_of}, ctx->saved_data["scale"].toDouble());
    return {rotated(d.dq_TNH, angles, /*inverse=*/true),
            rotated(d.dk_TKH, angles, /*inverse=*/true),
            d.dv_TKV,
            {},
            {},
            {}};
  }
};

RopeAngles narrow(const RopeAngles& angles, std::int64_t begin, std::int64_t count) {
  if (!angles.cos_TF.defined()) return angles;
  return {angles.cos_TF.narrow(0, begin, count), angles.sin_TF.narrow(0, begin, count)};
}

std::vector<kernels::CachedSequence> cached_sequences(const Batch& batch) {
  const auto& offsets = batch.document_offsets;
  const auto* positions = batch.positions_T.const_data_ptr<std::int64_t>();
  std::vector<kernels::CachedSequence> sequences;
  for (std::size_t d = 0; d + 1 < offsets.size(); ++d)
    sequences.push_back({offsets[d], offsets[d + 1] - offsets[d], positions[offsets[d]],
                         batch.cache->blocks(batch.cache_slots[d])});
  return sequences;
}

}  // namespace

at::Tensor causal_attention(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                            const at::Tensor& v_TKV, const RopeAngles& angles,
                            const kernels::Documents& documents, std::optional<double> scale) {
  kernels::check_documents("causal_attention", documents, q_TNH.size(0));
  return CausalAttention::apply(q_TNH, k_TKH, v_TKV, angles, documents, scale_of(q_TNH, scale));
}

at::Tensor causal_attention_reference(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                                      const at::Tensor& v_TKV, const RopeAngles& angles,
                                      const kernels::Documents& documents,
                                      std::optional<double> scale) {
  kernels::check_documents("causal_attention", documents, q_TNH.size(0));
  const auto& offsets = documents.offsets;
  const auto group = q_TNH.size(1) / k_TKH.size(1);
  const auto turned = [&](const at::Tensor& x_TNH) {
    if (!angles.cos_TF.defined()) return x_TNH;
    return kernels::rotate_reference(x_TNH, angles.cos_TF, angles.sin_TF);
  };
  const auto q_rotated = turned(q_TNH), k_rotated = turned(k_TKH);
  std::vector<at::Tensor> out;
  for (std::size_t d = 0; d + 1 < offsets.size(); ++d) {
    const auto own = [&](const at::Tensor& x) {
      return x.narrow(0, offsets[d], offsets[d + 1] - offsets[d]);
    };
    const auto seen = [&](const at::Tensor& x) {
      if (documents.prefix_of.empty() || documents.prefix_of[d] < 0) return own(x);
      const auto p = static_cast<std::size_t>(documents.prefix_of[d]);
      return at::cat({x.narrow(0, offsets[p], offsets[p + 1] - offsets[p]), own(x)});
    };
    const auto heads = [&](const at::Tensor& x, std::int64_t times) {
      return x.repeat_interleave(times, 1).transpose(0, 1);
    };
    const auto score =
        heads(own(q_rotated), 1).matmul(heads(seen(k_rotated), group).transpose(1, 2)) *
        scale_of(q_TNH, scale);
    const auto length = score.size(1), keys = score.size(2);
    const auto visible = at::ones({length, keys}, at::kBool).tril(keys - length);
    const auto weight =
        score.masked_fill(visible.logical_not(), -std::numeric_limits<double>::infinity())
            .softmax(-1);
    out.push_back(weight.matmul(heads(seen(v_TKV), group)).transpose(0, 1));
  }
  return at::cat(out);
}

at::Tensor cached_causal_attention(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                                   const at::Tensor& v_TKV, const RopeAngles& angles,
                                   const Batch& batch, std::int64_t layer,
                                   std::optional<double> scale) {
  TORCH_CHECK_VALUE(batch.prefix_of.empty(), "cached_causal_attention: no shared prefixes");
  const auto width = q_TNH.size(2), missing = width - v_TKV.size(2);
  const auto v = missing > 0 ? at::constant_pad_nd(v_TKV, {0, missing}) : v_TKV;
  const auto& cache =
      batch.cache->layer(layer, k_TKH.size(1), width, k_TKH.options().requires_grad(false));
  const auto sequences = cached_sequences(batch);
  kernels::append_to_cache(rotated(k_TKH, angles), v, cache, sequences);

  // Prompts from their first token see nothing but themselves: the blocked kernel is the faster
  // one. Which kernel computes a document depends on that document alone.
  const auto is_prompt = [](const kernels::CachedSequence& s) {
    return s.start == 0 && s.count > 1;
  };
  if (std::ranges::all_of(sequences, is_prompt))
    return causal_attention(q_TNH, k_TKH, v_TKV, angles, {batch.document_offsets}, scale);
  std::vector<kernels::CachedSequence> going_on;
  std::ranges::remove_copy_if(sequences, std::back_inserter(going_on), is_prompt);
  auto out =
      kernels::cached_attention(rotated(q_TNH, angles), cache, going_on, scale_of(q_TNH, scale));
  if (missing > 0) out = out.narrow(2, 0, v_TKV.size(2)).contiguous();
  for (const auto& s : sequences) {
    if (!is_prompt(s)) continue;
    const auto rows = [&](const at::Tensor& x) { return x.narrow(0, s.begin, s.count); };
    rows(out).copy_(causal_attention(rows(q_TNH), rows(k_TKH), rows(v_TKV),
                                     narrow(angles, s.begin, s.count),
                                     {std::vector<std::int64_t>{0, s.count}}, scale));
  }
  return out;
}

}  // namespace tailor::models
