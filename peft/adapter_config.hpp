#pragma once

#include <string>
#include <vector>

#include "peft/lora_config.hpp"

namespace tailor::peft {

/// HF PEFT's adapter_config.json.
struct AdapterConfig {
  LoraConfig lora;
  std::string base_model_name_or_path;  // "" where the file says null
  /// target_modules selects by more than LoraConfig holds (layers_to_transform): only the keys of
  /// the factors tell which modules are adapted.
  bool by_layer = false;
  std::vector<std::string> target_parameters;  // of experts that are one parameter
  std::vector<std::string> modules_to_save;    // routers alone: "gate", "mlp.gate"
  std::string peft_version;                    // "" where the file does not say
};

/// `file` is for messages. A field that would change the function and is not supported is refused
/// by name, and so is every unknown one that is not null, false or empty. Throws ConfigError with
/// all problems at once.
AdapterConfig parse_adapter_config(const std::string& json, const std::string& file);

/// The document that PEFT reads, with `targets` as an explicit list.
std::string format_adapter_config(const LoraConfig& lora, const std::vector<std::string>& targets,
                                  const std::string& base_model_name_or_path,
                                  const std::vector<std::string>& target_parameters = {},
                                  const std::vector<std::string>& modules_to_save = {});

}  // namespace tailor::peft
