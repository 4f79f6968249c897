// T packed tokens, D hidden_size, N query heads, K key/value heads, H head_dim, F heads * H. They
// name logical dimensions; under tensor parallelism N and K are local.
#include "models/layers/self_attention.hpp"

namespace tailor::models {
namespace {

/// Rows of q or k that must stay together: a head, or all of them under a norm over all heads.
std::int64_t cut_unit(const SelfAttentionConfig& c, std::int64_t heads) {
  return c.qk_norm_over_heads ? heads * c.head_dim : c.head_dim;
}

}  // namespace

SelfAttention::SelfAttention(const SelfAttentionConfig& c, std::int64_t layer)
    : head_dim_(c.head_dim),
      layer_(layer),
      norm_over_heads_(c.qk_norm_over_heads),
      q_proj_(dense(c.hidden_size, c.num_attention_heads * c.head_dim, c.qkv_bias),
              {Sharding::Dim::Out, cut_unit(c, c.num_attention_heads)}),
      k_proj_(dense(c.hidden_size, c.num_key_value_heads * c.head_dim, c.qkv_bias),
              {Sharding::Dim::Out, cut_unit(c, c.num_key_value_heads)}),
      v_proj_(dense(c.hidden_size, c.num_key_value_heads * c.head_dim, c.qkv_bias),
              {Sharding::Dim::Out, c.head_dim}),
      o_proj_(dense(c.num_attention_heads * c.head_dim, c.hidden_size, c.output_bias),
              {Sharding::Dim::In, c.head_dim}) {
  add_child("q_proj", q_proj_);
  add_child("k_proj", k_proj_);
  add_child("v_proj", v_proj_);
  add_child("o_proj", o_proj_);
  if (!c.qk_norm && !norm_over_heads_) return;
  const auto norm = [&](std::int64_t heads) {
    return std::make_unique<RmsNorm>(norm_over_heads_ ? heads * c.head_dim : c.head_dim,
                                     c.rms_norm_eps);
  };
  q_norm_ = norm(c.num_attention_heads);
  k_norm_ = norm(c.num_key_value_heads);
  add_child("q_norm", *q_norm_);
  add_child("k_norm", *k_norm_);
}

at::Tensor SelfAttention::forward(const at::Tensor& x_TD, const LayerContext& context) const {
  // (T, heads * H) -> (T, heads, H). The head count is read off y: a shard holds fewer.
  const auto heads = [&](const at::Tensor& y_TF) { return y_TF.unflatten(1, {-1, head_dim_}); };
  const auto [q_TF, k_TF, v_TF] = project(x_TD, q_proj_, k_proj_, v_proj_);
  const auto normed = [&](const at::Tensor& y_TF, const std::unique_ptr<RmsNorm>& norm) {
    if (!norm) return heads(y_TF);
    return norm_over_heads_ ? heads(norm->forward(y_TF)) : norm->forward(heads(y_TF));
  };
  const auto q_TNH = normed(q_TF, q_norm_), k_TKH = normed(k_TF, k_norm_);
  const auto& batch = context.batch;
  const auto out_TNH =
      batch.cache != nullptr
          ? cached_causal_attention(q_TNH, k_TKH, heads(v_TF), context.angles, batch, layer_)
          : causal_attention(q_TNH, k_TKH, heads(v_TF), context.angles,
                             {batch.document_offsets, batch.prefix_of});
  return o_proj_(out_TNH.flatten(1));
}

void SelfAttention::finish_loading(kernels::Arithmetic arithmetic) {
  for (const auto* slot : {&q_proj_, &k_proj_, &v_proj_, &o_proj_})
    slot->layer().finish_loading(arithmetic);
  if (q_norm_) q_norm_->finish_loading();
  if (k_norm_) k_norm_->finish_loading();
}

}  // namespace tailor::models
