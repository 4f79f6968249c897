#include "models/families/moe_fields.hpp"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

namespace tailor::models {
namespace {

constexpr std::int64_t kMostExperts = 1 << 14;  // beyond, the file is damaged
constexpr std::int64_t kMostInAllLayers = 1 << 20;

struct NumExperts {
  const char* key = "num_experts";  // by which the file names it
  std::int64_t value = 1;
};

/// Some converters leave a second published name beside the family's own: it has to say the same.
NumExperts read_num_experts(configs::Section& config) {
  // A value that was refused becomes one that the blocks can be made of; check() comes after.
  const auto read = [&config](const char* key) {
    return NumExperts{
        key, std::clamp<std::int64_t>(config.integer(key, {}, 1, kMostExperts), 1, kMostExperts)};
  };
  std::optional<NumExperts> out;
  for (const auto* key : {"num_experts", "num_local_experts", "n_routed_experts"}) {
    if (!config.has(key)) continue;
    const auto found = read(key);
    if (!out)
      out = found;
    else if (found.value != out->value)
      config.reject(key, std::string("expected ") + out->key + " = " + std::to_string(out->value));
  }
  return out ? *out : read(NumExperts().key);
}

}  // namespace

MoeConfig read_moe_config(configs::Section& config, const DecoderConfig& decoder) {
  MoeConfig out;
  out.hidden_size = decoder.shape.hidden_size;
  const auto experts = read_num_experts(config);
  auto& router = out.router;
  router.num_experts = experts.value;
  if (router.num_experts * decoder.shape.num_hidden_layers > kMostInAllLayers) {
    config.reject(experts.key, "expected at most " + std::to_string(kMostInAllLayers) +
                                   " experts in all layers together");
    router.num_experts = 1;
  }
  router.num_experts_per_tok = std::clamp<std::int64_t>(
      config.integer("num_experts_per_tok", {}, 1, router.num_experts), 1, router.num_experts);
  router.norm_topk_prob = config.boolean("norm_topk_prob", false);
  config.boolean("output_router_logits", false);
  config.number("router_aux_loss_coef", 0.0);
  return out;
}

std::vector<bool> read_sparse_layers(configs::Section& config, std::int64_t num_hidden_layers) {
  const auto step = std::max<std::int64_t>(1, config.positive("decoder_sparse_step", 1));
  std::vector<bool> sparse;
  for (std::int64_t i = 0; i < num_hidden_layers; ++i) sparse.push_back((i + 1) % step == 0);
  for (const auto layer : config.integers("mlp_only_layers")) {
    if (layer >= 0 && layer < num_hidden_layers)
      sparse[static_cast<std::size_t>(layer)] = false;
    else
      config.reject("mlp_only_layers", "expected layers below num_hidden_layers = " +
                                           std::to_string(num_hidden_layers));
  }
  return sparse;
}

std::unique_ptr<CausalLM> make_moe_decoder(const DecoderConfig& config, const MoeConfig& moe,
                                           const std::vector<bool>& is_sparse,
                                           const std::string& block_name) {
  std::vector<std::unique_ptr<DecoderLayer>> layers;
  const auto hidden = config.shape.hidden_size;
  for (std::int64_t i = 0; i < config.shape.num_hidden_layers; ++i) {
    std::unique_ptr<FeedForward> block;
    if (is_sparse[static_cast<std::size_t>(i)])
      block = std::make_unique<MoeBlock>(moe, i);
    else
      block = std::make_unique<SwiGluMlp>(hidden, config.intermediate_size, config.mlp_bias);
    layers.push_back(std::make_unique<DecoderLayer>(make_attention(config, i), std::move(block),
                                                    hidden, config.rms_norm_eps, block_name));
  }
  auto with_experts = config;
  with_experts.shape.num_experts = moe.router.num_experts;
  with_experts.shape.num_experts_per_tok = moe.router.num_experts_per_tok;
  return make_decoder(with_experts, std::move(layers));
}

}  // namespace tailor::models
