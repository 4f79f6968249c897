#include "models/families/deepseek_fields.hpp"

#include <string>

namespace tailor::models {
namespace {

constexpr std::int64_t kMost = 1 << 24;  // a size beyond is a damaged file

}  // namespace

DecoderConfig read_latent_decoder_config(configs::Section& config) {
  auto out = read_decoder_config(config);
  const auto heads = out.attention.num_attention_heads;
  if (out.shape.num_key_value_heads != heads)
    config.reject("num_key_value_heads", "expected num_attention_heads = " + std::to_string(heads) +
                                             ": latents are shared");
  MlaConfig mla{.hidden_size = out.shape.hidden_size, .num_attention_heads = heads};
  const auto size = [&](const char* key) { return config.integer(key, {}, 1, kMost); };
  if (config.has("q_lora_rank")) mla.q_lora_rank = size("q_lora_rank");
  mla.kv_lora_rank = size("kv_lora_rank");
  mla.qk_nope_head_dim = size("qk_nope_head_dim");
  mla.qk_rope_head_dim = size("qk_rope_head_dim");
  mla.v_head_dim = size("v_head_dim");
  if (mla.qk_rope_head_dim % 2 != 0) config.reject("qk_rope_head_dim", "expected an even number");
  if (mla.v_head_dim > mla.qk_head_dim())
    config.reject("v_head_dim", "expected at most qk_nope_head_dim + qk_rope_head_dim = " +
                                    std::to_string(mla.qk_head_dim()));
  config.ignore("qk_head_dim");  // the sum, which transformers writes too
  mla.attention_bias = config.boolean("attention_bias", false);
  out.rope.head_dim = mla.qk_rope_head_dim;
  mla.scale_factor = softmax_scale_factor(out.rope);
  out.shape.head_dim = mla.qk_head_dim();
  out.latent_attention = mla;
  return out;
}

MoeConfig read_deepseek_moe_config(configs::Section& config, const DecoderConfig& decoder) {
  auto out = read_moe_config(config, decoder);
  out.moe_intermediate_size = config.integer("moe_intermediate_size", {}, 1, kMost);
  out.shared_intermediate_size =
      config.integer("n_shared_experts", 0, 0, 1024) * out.moe_intermediate_size;
  out.names.shared_expert = "shared_experts";
  out.router.routed_scaling_factor =
      config.number("routed_scaling_factor", 1.0, {.min = 0.0, .open_min = true});
  return out;
}

void read_groups(configs::Section& config, RouterConfig& router, RouterConfig::GroupScore score) {
  const auto experts = router.num_experts;
  auto groups = config.integer("n_group", 1, 1, experts);
  auto kept = config.integer("topk_group", 1, 1, groups);
  const auto each = experts / groups;
  if (experts % groups != 0) {
    config.reject("n_group", "expected a divisor of the " + std::to_string(experts) + " experts");
    groups = kept = 1;
  } else if (groups > 1 && score == RouterConfig::GroupScore::SumOfBestTwo && each < 2) {
    config.reject("n_group", "expected groups of at least two experts");
    groups = kept = 1;
  } else if (kept * each < router.num_experts_per_tok) {
    config.reject("topk_group", "expected groups that hold num_experts_per_tok = " +
                                    std::to_string(router.num_experts_per_tok) + " experts");
    groups = kept = 1;
  }
  router.n_group = groups;
  router.topk_group = kept;
  router.group_score = score;
}

std::vector<bool> read_layers_behind_dense(configs::Section& config,
                                           std::int64_t num_hidden_layers) {
  const auto first = config.integer("first_k_dense_replace", 0, 0, num_hidden_layers);
  const auto step = config.integer("moe_layer_freq", 1, 1, num_hidden_layers);
  std::vector<bool> sparse;
  for (std::int64_t i = 0; i < num_hidden_layers; ++i)
    sparse.push_back(i >= first && i % step == 0);
  return sparse;
}

void finish_deepseek_config(configs::Section& config) {
  for (const auto* key : {"aux_loss_alpha", "ep_size", "num_mtp_layers", "num_nextn_predict_layers",
                          "pretraining_tp", "seq_aux"})
    config.ignore(key);
  finish_config(config);
}

}  // namespace tailor::models
