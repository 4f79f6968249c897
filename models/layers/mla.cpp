// T packed tokens, D hidden_size, N heads, R rotated features of a head, P positionless ones,
// H = P + R, V features of a value; C width of the latents, F heads * features. N is local under
// tensor parallelism.
#include "models/layers/mla.hpp"

#include <ATen/ops/cat.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <utility>

#include "models/kernels/rotary.hpp"

namespace tailor::models {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The published models' latents are normed with this, whatever rms_norm_eps says.
constexpr double kLatentEps = 1e-6;

struct Rotate : torch::autograd::Function<Rotate> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_TNR,
                            const RopeAngles& angles) {
    ctx->save_for_backward({angles.cos_TF, angles.sin_TF});
    return kernels::rotate(x_TNR, angles.cos_TF, angles.sin_TF);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    const auto saved = ctx->get_saved_variables();
    return {kernels::rotate(dy[0].contiguous(), saved[0], saved[1], /*inverse=*/true), {}};
  }
};

/// Rotated, with the pairs' first members before their second ones. Neighbouring pairs are brought
/// into that order first: scores do not depend on the order of features as long as q and k share
/// it.
at::Tensor turned(const at::Tensor& x_TNR, const RopeAngles& angles, bool interleave) {
  const auto halves_TNR =
      interleave ? x_TNR.unflatten(2, {-1, 2}).transpose(2, 3).flatten(2) : x_TNR;
  return Rotate::apply(halves_TNR.contiguous(), angles);
}

}  // namespace

LatentAttention::LatentAttention(const MlaConfig& c, std::int64_t layer)
    : config_(c),
      layer_(layer),
      q_proj_(dense(c.q_lora_rank > 0 ? c.q_lora_rank : c.hidden_size,
                    c.num_attention_heads * c.qk_head_dim()),
              {Sharding::Dim::Out, c.qk_head_dim()}),
      kv_a_proj_(dense(c.hidden_size, c.kv_lora_rank + c.qk_rope_head_dim, c.attention_bias)),
      kv_a_layernorm_(c.kv_lora_rank, kLatentEps),
      kv_b_proj_(dense(c.kv_lora_rank, c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim)),
                 {Sharding::Dim::Out, c.qk_nope_head_dim + c.v_head_dim}),
      o_proj_(dense(c.num_attention_heads * c.v_head_dim, c.hidden_size, c.attention_bias),
              {Sharding::Dim::In, c.v_head_dim}) {
  if (c.q_lora_rank > 0) {
    q_a_proj_ = std::make_unique<LinearSlot>(dense(c.hidden_size, c.q_lora_rank, c.attention_bias));
    q_a_layernorm_ = std::make_unique<RmsNorm>(c.q_lora_rank, kLatentEps);
    add_child("q_a_proj", *q_a_proj_);
    add_child("q_a_layernorm", *q_a_layernorm_);
  }
  add_child(q_a_proj_ ? "q_b_proj" : "q_proj", q_proj_);
  add_child("kv_a_proj_with_mqa", kv_a_proj_);
  add_child("kv_a_layernorm", kv_a_layernorm_);
  add_child("kv_b_proj", kv_b_proj_);
  add_child("o_proj", o_proj_);
}

at::Tensor LatentAttention::forward(const at::Tensor& x_TD, const LayerContext& context) const {
  const auto& c = config_;
  const auto [first_TC, latent_TC] = project(x_TD, q_a_proj_ ? *q_a_proj_ : q_proj_, kv_a_proj_);
  const auto q_TF = q_a_proj_ ? q_proj_(q_a_layernorm_->forward(first_TC)) : first_TC;
  const auto kv_TF =
      kv_b_proj_(kv_a_layernorm_.forward(latent_TC.narrow(1, 0, c.kv_lora_rank).contiguous()));
  // The head count is read off the answers: a shard holds fewer.
  const auto q_TNH = q_TF.unflatten(1, {-1, c.qk_head_dim()});
  const auto kv_TNF = kv_TF.unflatten(1, {-1, c.qk_nope_head_dim + c.v_head_dim});
  const auto turn = [&](const at::Tensor& x_TNR) {
    return turned(x_TNR, context.angles, c.rope_interleave);
  };
  const auto with_positions = [&](const at::Tensor& x_TNF, const at::Tensor& rope_TNR) {
    return at::cat({x_TNF.narrow(2, 0, c.qk_nope_head_dim), rope_TNR}, 2);
  };
  const auto shared_T1R =
      turn(latent_TC.narrow(1, c.kv_lora_rank, c.qk_rope_head_dim).unsqueeze(1));
  const auto query_TNH =
      with_positions(q_TNH, turn(q_TNH.narrow(2, c.qk_nope_head_dim, c.qk_rope_head_dim)));
  const auto key_TNH = with_positions(kv_TNF, shared_T1R.expand({-1, kv_TNF.size(1), -1}));
  const auto value_TNV = kv_TNF.narrow(2, c.qk_nope_head_dim, c.v_head_dim);

  const auto scale = c.scale_factor / std::sqrt(static_cast<double>(c.qk_head_dim()));
  const auto& batch = context.batch;
  const RopeAngles none;
  const auto out_TNV =
      batch.cache != nullptr
          ? cached_causal_attention(query_TNH, key_TNH, value_TNV, none, batch, layer_, scale)
          : causal_attention(query_TNH, key_TNH, value_TNV, none,
                             {batch.document_offsets, batch.prefix_of}, scale);
  return o_proj_(out_TNV.flatten(1));
}

void LatentAttention::finish_loading(kernels::Arithmetic arithmetic) {
  for (const auto* slot : {&q_proj_, &kv_a_proj_, &kv_b_proj_, &o_proj_})
    slot->layer().finish_loading(arithmetic);
  kv_a_layernorm_.finish_loading();
  if (!q_a_proj_) return;
  q_a_proj_->layer().finish_loading(arithmetic);
  q_a_layernorm_->finish_loading();
}

}  // namespace tailor::models
