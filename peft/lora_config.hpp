#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "configs/reader.hpp"

namespace tailor::peft {

enum class InitLora { Default, Gaussian, Random };  // init_lora_weights: true | gaussian | false

/// What the routed experts of a layer have in common: nothing, both factors, or the factor on the
/// side of the hidden state (A of gate and up, B of down), as Tinker and Megatron-Bridge share.
enum class ExpertLora { PerExpert, Shared, SharedOuter };
/// The rank of routed experts: r, or r / num_experts_per_tok, so that the experts of a token have
/// the rank of one dense layer together ("LoRA Without Regret", Thinking Machines 2025).
enum class MoeRank { Same, Divide };
/// With a divided rank: the scale stays, or lora_alpha does.
enum class MoeScale { KeepS, KeepAlpha };

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
  ExpertLora expert_lora = ExpertLora::PerExpert;
  MoeRank moe_rank = MoeRank::Same;
  MoeScale moe_scale = MoeScale::KeepS;
  /// Routers are trained whole beside the factors (see AdaptedRouter); read_lora() does not read
  /// it.
  bool train_router = false;
  /// "job.yaml:9:3: peft.r" of keys that can turn out wrong for a model; empty where the
  /// configuration comes from no job file.
  std::map<std::string, std::string> places;

  std::int64_t rank_of(const std::string& path) const;
  double alpha_of(const std::string& path) const;
  double scale_of(const std::string& path) const;
  /// The key that decides the rank of `path`: r or rank_pattern.
  const char* rank_key(const std::string& path) const;
};

/// moe_rank and moe_scale as patterns behind those of the user, which win: what files hold. Throws
/// ConfigError naming `place`, that of peft.moe_rank, where the rank is not divisible.
LoraConfig with_expert_ranks(LoraConfig config, std::int64_t num_experts_per_tok,
                             const std::string& place);

/// Reads the section `peft` of a job file, apart from `method` and `adapter_path`; does not
/// finish().
LoraConfig read_lora(configs::Section& section);

/// Reports `expression` at `key` where it cannot be compiled or would cost too much.
void check_expression(configs::Section& section, const std::string& key,
                      const std::string& expression);

}  // namespace tailor::peft
