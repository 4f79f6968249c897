// T tokens, D hidden_size, N heads, P positionless and R rotated features of a head, V of a value.
#include "models/layers/mla.hpp"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/block_diag.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/einsum.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <string>

using namespace tailor::models;

namespace {

constexpr std::int64_t kDocument = 7;  // tokens of each of two documents

using Parameters = std::map<std::string, at::Tensor>;  // float64

Parameters fill(LatentAttention& attention) {
  Parameters out;
  for (const auto& p : attention.parameters()) {
    const auto scale = p.shape.size() == 1 ? 1.0 : 1.5 / std::sqrt(p.shape.back());
    *p.value = at::randn(p.shape) * scale;
    out[p.name] = p.value->to(at::kDouble);
  }
  attention.finish_loading(kernels::Arithmetic::Float32);
  return out;
}

at::Tensor normed(const at::Tensor& x, const at::Tensor& weight) {
  return weight * x / (x.square().mean(-1, true) + 1e-6).sqrt();
}

/// Each pair as a complex number times that of its angle, pairs where the checkpoint has them.
at::Tensor turned(const at::Tensor& x_TNR, const RopeAngles& angles, bool interleave) {
  const auto cos = angles.cos_TF.to(at::kDouble).unsqueeze(1),
             sin = angles.sin_TF.to(at::kDouble).unsqueeze(1);
  const auto pairs =
      interleave ? x_TNR.unflatten(2, {-1, 2}) : x_TNR.unflatten(2, {2, -1}).transpose(2, 3);
  const auto a = pairs.select(3, 0), b = pairs.select(3, 1);
  return at::cat({a * cos - b * sin, a * sin + b * cos}, 2);
}

/// The layer in float64, from section 2.1 of arXiv:2405.04434, document by document.
at::Tensor reference(const MlaConfig& c, Parameters w, const at::Tensor& x_TD,
                     const RopeAngles& angles) {
  const auto linear = [&](const at::Tensor& x, const std::string& name) {
    const auto y = x.matmul(w[name + ".weight"].t());
    return w.contains(name + ".bias") ? y + w[name + ".bias"] : y;
  };
  const auto q =
      c.q_lora_rank == 0
          ? linear(x_TD, "q_proj")
          : linear(normed(linear(x_TD, "q_a_proj"), w["q_a_layernorm.weight"]), "q_b_proj");
  const auto q_TNH = q.unflatten(1, {c.num_attention_heads, -1});
  const auto latent = linear(x_TD, "kv_a_proj_with_mqa");
  const auto kv_TNF =
      linear(normed(latent.slice(1, 0, c.kv_lora_rank), w["kv_a_layernorm.weight"]), "kv_b_proj")
          .unflatten(1, {c.num_attention_heads, -1});
  const auto nope = c.qk_nope_head_dim;
  const auto q_rope = turned(q_TNH.slice(2, nope), angles, c.rope_interleave);
  const auto k_rope =
      turned(latent.slice(1, c.kv_lora_rank).unsqueeze(1), angles, c.rope_interleave);
  auto score_NTT = at::einsum("inp,jnp->nij", {q_TNH.slice(2, 0, nope), kv_TNF.slice(2, 0, nope)}) +
                   at::einsum("inr,jmr->nij", {q_rope, k_rope});
  const auto seen = at::ones({kDocument, kDocument}, at::kBool).tril();
  const auto visible = at::block_diag({seen, seen});
  score_NTT = (score_NTT * (c.scale_factor / std::sqrt(static_cast<double>(c.qk_head_dim()))))
                  .masked_fill(visible.logical_not(), -INFINITY);
  const auto out_TNV = at::einsum("nij,jnv->inv", {score_NTT.softmax(-1), kv_TNF.slice(2, nope)});
  return linear(out_TNV.flatten(1), "o_proj");
}

}  // namespace

TEST_CASE("latent attention equals its definition, forward and backward", "[models]") {
  at::manual_seed(0);
  const std::int64_t q_lora_rank = GENERATE(0, 10);
  const bool interleave = GENERATE(true, false), bias = GENERATE(false, true);
  CAPTURE(q_lora_rank, interleave, bias);
  const MlaConfig config{.hidden_size = 24,
                         .num_attention_heads = 3,
                         .q_lora_rank = q_lora_rank,
                         .kv_lora_rank = 12,
                         .qk_nope_head_dim = 6,
                         .qk_rope_head_dim = 8,
                         .v_head_dim = 5,
                         .attention_bias = bias,
                         .rope_interleave = interleave,
                         .scale_factor = 1.3};
  LatentAttention attention(config, 0);
  const auto weights = fill(attention);
  Batch batch = pack({std::vector<std::int64_t>(kDocument), std::vector<std::int64_t>(kDocument)});
  const RopeConfig rope{.head_dim = 8};
  const auto angles = rope_angles(batch.positions_T, rope_frequencies(rope), 1.2);
  const LayerContext context{batch, angles};

  auto x = at::randn({2 * kDocument, 24}).requires_grad_();
  auto exact_x = x.detach().to(at::kDouble).requires_grad_();
  const auto y = attention.forward(x, context);
  const auto exact_y = reference(config, weights, exact_x, angles);
  const auto g = at::randn(y.sizes());
  y.backward(g);
  exact_y.backward(g.to(at::kDouble));
  // Float32 against float64: sums of some ten terms.
  CHECK(at::allclose(y.to(at::kDouble), exact_y, 1e-5, 1e-5));
  CHECK(at::allclose(x.grad().to(at::kDouble), exact_x.grad(), 1e-5, 2e-5));
}
