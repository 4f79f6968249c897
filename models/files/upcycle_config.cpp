#include "models/files/upcycle_config.hpp"

#include <cmath>
#include <nlohmann/json.hpp>

#include "configs/reader.hpp"
#include "models/files/file_error.hpp"

namespace tailor::models {
namespace {

using Json = nlohmann::ordered_json;

SparseFamily sparse_family_of(const std::string& model_type, const std::string& file) {
  if (model_type == "llama")
    return {"mixtral", "MixtralForCausalLM", "block_sparse_moe", "w1", "w3", "w2"};
  const std::string gate = "gate_proj", up = "up_proj", down = "down_proj";
  if (model_type == "qwen2")
    return {"qwen2_moe", "Qwen2MoeForCausalLM", "mlp", gate, up, down, /*shared_expert=*/true};
  if (model_type == "qwen3") return {"qwen3_moe", "Qwen3MoeForCausalLM", "mlp", gate, up, down};
  throw FileError(file + ": model_type: expected a dense family (llama, qwen2, qwen3), found " +
                  in_quotes(model_type));
}

void check(const UpcycleOptions& options, std::int64_t width, const std::string& file) {
  const auto refuse = [](const std::string& name, const std::string& expected,
                         const std::string& found) {
    throw configs::ConfigError(name + ": expected " + expected + ", found " + found);
  };
  constexpr std::int64_t kMost = 1 << 14;  // experts of a layer that a model may have
  const auto &experts = options.num_experts, active = options.num_experts_per_tok;
  if (experts < 1 || experts > kMost)
    refuse("num_experts", "1 to " + std::to_string(kMost), std::to_string(experts));
  if (active < 1 || active > experts)
    refuse("num_experts_per_tok", "1 to num_experts = " + std::to_string(experts),
           std::to_string(active));
  if (options.split < 1 || width % options.split != 0 || experts * options.split > kMost)
    refuse("split",
           "a divisor of intermediate_size = " + std::to_string(width) + " (" + file +
               ") and at most " + std::to_string(kMost) + " experts",
           std::to_string(options.split));
  if (!std::isfinite(options.noise) || options.noise < 0.0)
    refuse("noise", "a finite number of at least 0", configs::number_text(options.noise));
}

std::int64_t positive(const Json& config, const char* key, const std::string& file) {
  if (!config.contains(key) || !config[key].is_number_integer() || config[key] < 1)
    throw FileError(file + ": " + key + ": expected a positive integer");
  return config[key].get<std::int64_t>();
}

/// Spells out what the dense model has without saying so: families differ in what absence means.
void spell_out(Json& config, const std::string& file) {
  const auto fill = [&](const char* key, const Json& value) {
    if (!config.contains(key) || config[key].is_null()) config[key] = value;
  };
  const auto heads = positive(config, "num_attention_heads", file);
  fill("num_key_value_heads", heads);
  fill("head_dim", positive(config, "hidden_size", file) / heads);
  fill("tie_word_embeddings", false);
  const auto has_theta = [&](const char* key) {
    return config.contains(key) && config[key].is_object() && config[key].contains("rope_theta");
  };
  if (!has_theta("rope_parameters") && !has_theta("rope_scaling")) fill("rope_theta", 10000.0);
}

void set_mixtral(Json& config, const UpcycleOptions& options, const std::string& file) {
  for (const auto* const key : {"attention_bias", "mlp_bias"}) {
    if (config.contains(key) && config[key] == true)
      throw FileError(file + ": " + key + ": expected false, since mixtral has no such biases");
    config.erase(key);
  }
  for (const auto* const key : {"is_llama_config", "pretraining_tp", "rope_interleaved"})
    config.erase(key);
  config["num_local_experts"] = options.num_experts * options.split;
  config["intermediate_size"] = positive(config, "intermediate_size", file) / options.split;
  config["router_jitter_noise"] = 0.0;
  config["sliding_window"] = nullptr;
}

void set_qwen_moe(Json& config, const SparseFamily& family, const UpcycleOptions& options,
                  const std::string& file) {
  const auto width = positive(config, "intermediate_size", file);
  config["num_experts"] = options.num_experts * options.split;
  config["moe_intermediate_size"] = width / options.split;
  config["norm_topk_prob"] = true;
  config["decoder_sparse_step"] = 1;
  config["mlp_only_layers"] = Json::array();
  if (family.shared_expert) {
    config["shared_expert_intermediate_size"] = width;
    config["qkv_bias"] = true;
  }
}

}  // namespace

UpcyclePlan plan_upcycle(const std::string& config_json, const std::string& config_file,
                         const UpcycleOptions& options) {
  auto config = Json::parse(config_json);
  const auto model_type = config.contains("model_type") && config["model_type"].is_string()
                              ? config["model_type"].get<std::string>()
                              : std::string();
  UpcyclePlan plan{.family = sparse_family_of(model_type, config_file),
                   .num_layers = positive(config, "num_hidden_layers", config_file),
                   .hidden_size = positive(config, "hidden_size", config_file),
                   .intermediate_size = positive(config, "intermediate_size", config_file),
                   .config_json = {}};
  check(options, plan.intermediate_size, config_file);
  if (!options.router_inputs.empty() && std::ssize(options.router_inputs) != plan.num_layers)
    throw configs::ConfigError("router_inputs: expected those of " +
                               std::to_string(plan.num_layers) + " layers, found " +
                               std::to_string(options.router_inputs.size()));
  spell_out(config, config_file);
  config["model_type"] = plan.family.model_type;
  config["architectures"] = Json::array({plan.family.architecture});
  config["num_experts_per_tok"] = options.num_experts_per_tok * options.split;
  config["output_router_logits"] = false;
  config["router_aux_loss_coef"] = 0.001;  // of the published models
  config.erase("auto_map");
  config.erase("layer_types");  // full attention everywhere; the sparse families have no such field
  if (plan.family.model_type == "mixtral")
    set_mixtral(config, options, config_file);
  else
    set_qwen_moe(config, plan.family, options, config_file);
  plan.config_json = config.dump(2);
  return plan;
}

}  // namespace tailor::models
