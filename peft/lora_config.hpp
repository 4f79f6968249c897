#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "configs/reader.hpp"

namespace tailor::peft {

enum class InitLora { Default, Gaussian, Random };  // init_lora_weights: true | gaussian | false

/// LoRA (Hu et al. 2021, arXiv:2106.09685): y = W x + s B A x, W frozen, s = lora_alpha / r, or
/// lora_alpha / sqrt(r) with use_rslora (Kalajdzievski 2023, arXiv:2312.03732). Names and matching
/// rules are those of HF PEFT's LoraConfig; the defaults r = 16, lora_alpha = 32 and all-linear are
/// ours (PEFT's are 8, 8 and a table a model).
struct LoraConfig {
  std::int64_t r = 16;
  double lora_alpha = 32.0;
  double lora_dropout = 0.0;
  bool use_rslora = false;
  /// A list: names or suffixes behind a dot. One string: "all-linear", or a regular expression that
  /// must match the whole path.
  std::vector<std::string> target_modules{"all-linear"};
  bool target_is_pattern = true;  // target_modules was one string
  std::vector<std::string> exclude_modules;
  bool exclude_is_pattern = false;
  /// Regular expressions by path: the first key K for which (.*\.)?(K)$ matches wins.
  std::vector<std::pair<std::string, double>> rank_pattern, alpha_pattern;
  InitLora init_lora_weights = InitLora::Default;

  std::int64_t rank_of(const std::string& path) const;
  double alpha_of(const std::string& path) const;
  double scale_of(const std::string& path) const;
};

/// Reads the section `peft` of a job file, apart from `method` and `adapter_path`; does not
/// finish().
LoraConfig read_lora(configs::Section& section);

/// Reports `expression` at `key` where it cannot be compiled or would cost too much.
void check_expression(configs::Section& section, const std::string& key,
                      const std::string& expression);

}  // namespace tailor::peft
