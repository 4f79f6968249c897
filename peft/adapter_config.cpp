#include "peft/adapter_config.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

namespace tailor::peft {
namespace {

constexpr std::int64_t kMaxRank = 1 << 20;

/// Fields that PEFT writes and that change nothing in an adapter that is loaded.
constexpr std::array kHarmless{"auto_mapping",      "inference_mode", "megatron_core",
                               "qalora_group_size", "revision",       "runtime_config"};

/// Initialisers that leave the base weights changed, so that the factors alone are another
/// function.
constexpr std::array kResidualInits{"pissa", "olora", "corda", "loftq", "lora_ga"};

void read_targets(configs::Section& root, AdapterConfig& config) {
  auto& lora = config.lora;
  lora.target_is_pattern = root.is_text("target_modules");
  lora.target_modules = root.names("target_modules", root.is_empty("target_parameters"));
  lora.exclude_is_pattern = root.is_text("exclude_modules");
  lora.exclude_modules = root.names("exclude_modules", /*required=*/false);
  config.by_layer = root.has("layers_to_transform");
  root.ignore("layers_to_transform");
  root.ignore("layers_pattern");
}

void read_pattern(configs::Section& root, const std::string& key, bool whole,
                  std::vector<std::pair<std::string, double>>& pattern) {
  pattern = root.numbers(key);
  for (const auto& [name, value] : pattern) check_expression(root, key, name);
  for (const auto& [name, value] : pattern)
    if (whole && (value < 1 || value > static_cast<double>(kMaxRank) || value != std::floor(value)))
      root.reject(key, "expected a positive whole number for \"" + name + '"');
}

/// Of the modules that PEFT can save whole, routers are known here.
void read_modules_to_save(configs::Section& root, AdapterConfig& config) {
  const std::string key = "modules_to_save";
  config.modules_to_save = root.names(key, /*required=*/false);
  const auto is_router = [](const std::string& name) {
    return name == "gate" || name.ends_with(".gate");
  };
  if (!std::ranges::all_of(config.modules_to_save, is_router))
    root.reject(key, "expected null, or the routers of a sparse model ([\"mlp.gate\"])");
}

void check_init(configs::Section& root) {
  const std::string key = "init_lora_weights";
  if (!root.is_text(key)) return root.ignore(key);
  const auto init = root.text(key);
  if (std::ranges::any_of(kResidualInits, [&](const char* name) { return init.starts_with(name); }))
    root.reject(key,
                "expected an initialiser that leaves the base weights as they are: this adapter "
                "belongs to changed base weights; save it with PEFT's "
                "path_initial_model_for_weight_conversion");
}

}  // namespace

AdapterConfig parse_adapter_config(const std::string& json, const std::string& file) {
  const auto document = configs::Document::json(json, file);
  auto root = document.root();
  AdapterConfig config;
  auto& lora = config.lora;
  root.choice("peft_type", {"LORA"});
  root.choice("task_type", {"CAUSAL_LM"}, "CAUSAL_LM");
  root.choice("bias", {"none"}, "none");
  config.base_model_name_or_path = root.text("base_model_name_or_path", "");
  lora.r = root.integer("r", 8, 1, kMaxRank);  // PEFT's defaults, not ours
  lora.lora_alpha = root.number("lora_alpha", 8.0);
  if (lora.lora_alpha == 0.0)
    root.reject("lora_alpha", "expected a number other than 0, which would switch the adapter off");
  lora.lora_dropout = root.number("lora_dropout", 0.0, {.min = 0.0, .max = 1.0});
  lora.use_rslora = root.boolean("use_rslora", false);
  read_targets(root, config);
  config.target_parameters = root.names("target_parameters", /*required=*/false);
  read_modules_to_save(root, config);
  if (root.is_text("peft_version")) config.peft_version = root.text("peft_version");
  root.ignore("peft_version");
  read_pattern(root, "rank_pattern", /*whole=*/true, lora.rank_pattern);
  read_pattern(root, "alpha_pattern", /*whole=*/false, lora.alpha_pattern);
  check_init(root);

  static const std::set<std::string> read{"peft_type",
                                          "task_type",
                                          "bias",
                                          "base_model_name_or_path",
                                          "r",
                                          "lora_alpha",
                                          "lora_dropout",
                                          "use_rslora",
                                          "target_modules",
                                          "exclude_modules",
                                          "rank_pattern",
                                          "alpha_pattern",
                                          "layers_pattern",
                                          "target_parameters",
                                          "modules_to_save",
                                          "peft_version",
                                          "init_lora_weights",
                                          "layers_to_transform"};
  for (const auto* key : kHarmless) root.ignore(key);
  for (const auto& key : root.keys()) {
    const bool harmless = std::ranges::find(kHarmless, key) != kHarmless.end();
    if (read.contains(key) || harmless) continue;
    if (!root.is_empty(key)) root.reject(key, "expected null, false or empty: not supported");
    root.ignore(key);
  }
  root.finish();
  document.check();
  return config;
}

std::string format_adapter_config(const LoraConfig& lora, const std::vector<std::string>& targets,
                                  const std::string& base_model_name_or_path,
                                  const std::vector<std::string>& target_parameters,
                                  const std::vector<std::string>& modules_to_save) {
  using Json = nlohmann::ordered_json;
  const auto number = [](double value) -> Json {
    if (value == std::floor(value) && std::abs(value) < 1e15)
      return static_cast<std::int64_t>(value);  // PEFT annotates alpha as int
    return value;
  };
  const auto pattern = [&](const std::vector<std::pair<std::string, double>>& entries) {
    auto map = Json::object();
    for (const auto& [name, value] : entries) map[name] = number(value);
    return map;
  };
  Json root{{"task_type", "CAUSAL_LM"},
            {"peft_type", "LORA"},
            {"auto_mapping", nullptr},
            {"peft_version", "0.19.1"},  // the layout meant
            {"base_model_name_or_path", base_model_name_or_path},
            {"revision", nullptr},
            {"inference_mode", true},
            {"r", lora.r},
            {"target_modules", targets},
            {"exclude_modules", nullptr},
            {"lora_alpha", number(lora.lora_alpha)},
            {"lora_dropout", lora.lora_dropout},
            {"fan_in_fan_out", false},
            {"bias", "none"},
            {"use_rslora", lora.use_rslora},
            {"modules_to_save", nullptr},
            {"init_lora_weights", true},
            {"layers_to_transform", nullptr},
            {"layers_pattern", nullptr},
            {"rank_pattern", pattern(lora.rank_pattern)},
            {"alpha_pattern", pattern(lora.alpha_pattern)},
            {"megatron_config", nullptr},
            {"megatron_core", "megatron.core"},
            {"loftq_config", Json::object()},
            {"use_dora", false},
            {"layer_replication", nullptr},
            {"lora_bias", false},
            {"target_parameters", nullptr}};
  if (!target_parameters.empty()) root["target_parameters"] = target_parameters;
  if (!modules_to_save.empty()) root["modules_to_save"] = modules_to_save;
  return root.dump(2, ' ', false, Json::error_handler_t::replace) + '\n';
}

}  // namespace tailor::peft
