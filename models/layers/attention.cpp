// T tokens of all documents, t of one; N query heads, K key/value heads, H head_dim.
#include "models/layers/attention.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <limits>
#include <vector>

#include "models/kernels/cached_attention.hpp"
#include "models/kernels/rotary.hpp"
#include "models/layers/kv_cache.hpp"

namespace tailor::models {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Rows of one document as (1, heads, t, H), without a copy.
at::Tensor document(const at::Tensor& x_TNH, std::int64_t begin, std::int64_t end) {
  return x_TNH.narrow(0, begin, end - begin).transpose(0, 1).unsqueeze(0);
}

struct CausalAttention : torch::autograd::Function<CausalAttention> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                            const at::Tensor& v_TKH, const RopeAngles& angles,
                            std::span<const std::int64_t> offsets) {
    const auto q = kernels::rotate(q_TNH, angles.cos_TF, angles.sin_TF);
    const auto k = kernels::rotate(k_TKH, angles.cos_TF, angles.sin_TF);
    auto out_TNH = at::empty(q.sizes(), q.options());
    auto lse_TN = at::empty({q.size(0), q.size(1)}, q.options().dtype(at::kFloat));
    for (std::size_t d = 0; d + 1 < offsets.size(); ++d) {
      const auto begin = offsets[d], end = offsets[d + 1];
      if (begin == end) continue;
      const auto [out_1NtH, lse_1Nt] = at::_scaled_dot_product_flash_attention_for_cpu(
          document(q, begin, end), document(k, begin, end), document(v_TKH, begin, end),
          /*dropout_p=*/0.0, /*is_causal=*/true);
      document(out_TNH, begin, end).copy_(out_1NtH);
      lse_TN.narrow(0, begin, end - begin).copy_(lse_1Nt.squeeze(0).t());
    }
    ctx->save_for_backward({q, k, v_TKH, out_TNH, lse_TN, angles.cos_TF, angles.sin_TF});
    ctx->saved_data["offsets"] = std::vector<std::int64_t>(offsets.begin(), offsets.end());
    return out_TNH;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const auto saved = ctx->get_saved_variables();
    const auto &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3], &lse_TN = saved[4];
    const auto offsets = ctx->saved_data["offsets"].toIntVector();
    const auto dout_TNH = gradients[0].contiguous();
    auto dq_TNH = at::empty_like(q), dk_TKH = at::empty_like(k);
    auto dv_TKH = at::empty(v.sizes(), v.options());
    for (std::size_t d = 0; d + 1 < offsets.size(); ++d) {
      const auto begin = offsets[d], end = offsets[d + 1];
      if (begin == end) continue;
      const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
          document(dout_TNH, begin, end), document(q, begin, end), document(k, begin, end),
          document(v, begin, end), document(out, begin, end),
          lse_TN.narrow(0, begin, end - begin).t().unsqueeze(0).contiguous(), /*dropout_p=*/0.0,
          /*is_causal=*/true);
      document(dq_TNH, begin, end).copy_(dq);
      document(dk_TKH, begin, end).copy_(dk);
      document(dv_TKH, begin, end).copy_(dv);
    }
    return {kernels::rotate(dq_TNH, saved[5], saved[6], /*inverse=*/true),
            kernels::rotate(dk_TKH, saved[5], saved[6], /*inverse=*/true),
            dv_TKH,
            {},
            {}};
  }
};

}  // namespace

at::Tensor causal_attention(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                            const at::Tensor& v_TKH, const RopeAngles& angles,
                            std::span<const std::int64_t> document_offsets) {
  TORCH_CHECK_VALUE(!document_offsets.empty() && document_offsets.front() == 0 &&
                        document_offsets.back() == q_TNH.size(0),
                    "causal_attention: document_offsets must run from 0 to T = ", q_TNH.size(0));
  return CausalAttention::apply(q_TNH, k_TKH, v_TKH, angles, document_offsets);
}

at::Tensor causal_attention_reference(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                                      const at::Tensor& v_TKH, const RopeAngles& angles,
                                      std::span<const std::int64_t> document_offsets) {
  const auto group = q_TNH.size(1) / k_TKH.size(1);
  const auto q_rotated = kernels::rotate_reference(q_TNH, angles.cos_TF, angles.sin_TF);
  const auto k_rotated = kernels::rotate_reference(k_TKH, angles.cos_TF, angles.sin_TF);
  std::vector<at::Tensor> out;
  for (std::size_t d = 0; d + 1 < document_offsets.size(); ++d) {
    const auto begin = document_offsets[d], length = document_offsets[d + 1] - begin;
    const auto heads = [&](const at::Tensor& x, std::int64_t times) {
      return x.narrow(0, begin, length).repeat_interleave(times, 1).transpose(0, 1);
    };
    const auto score = heads(q_rotated, 1).matmul(heads(k_rotated, group).transpose(1, 2)) /
                       std::sqrt(static_cast<double>(q_TNH.size(2)));
    const auto visible = at::ones({length, length}, at::kBool).tril();
    const auto weight =
        score.masked_fill(visible.logical_not(), -std::numeric_limits<double>::infinity())
            .softmax(-1);
    out.push_back(weight.matmul(heads(v_TKH, group)).transpose(0, 1));
  }
  return at::cat(out);
}

at::Tensor cached_causal_attention(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                                   const at::Tensor& v_TKH, const RopeAngles& angles,
                                   const Batch& batch, std::int64_t layer) {
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
  const auto k = kernels::rotate(k_TKH, angles.cos_TF, angles.sin_TF);
  kernels::append_to_cache(k, v_TKH, sequences);
  // Prompts from their first token see nothing but each other: the blocked kernel is the faster
  // one.
  if (all_new) return causal_attention(q_TNH, k_TKH, v_TKH, angles, offsets);
  const auto q = kernels::rotate(q_TNH, angles.cos_TF, angles.sin_TF);
  return kernels::cached_attention(q, sequences,
                                   1.0 / std::sqrt(static_cast<double>(q_TNH.size(2))));
}

}  // namespace tailor::models
