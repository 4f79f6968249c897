#include "peft/lora_config.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <regex>

namespace tailor::peft {
namespace {

using Pattern = std::vector<std::pair<std::string, double>>;

/// std::regex compiles by recursion: a longer expression may end the stack, and no path is longer.
constexpr std::size_t kMaxExpression = 1000;

/// libstdc++ 12 overflows while it reads a longer number of repetitions.
constexpr std::size_t kMaxDigits = 5;

bool has_long_number(const std::string& expression) {
  std::size_t run = 0;
  return std::ranges::any_of(expression, [&](char c) {
    run = c >= '0' && c <= '9' ? run + 1 : 0;
    return run > kMaxDigits;
  });
}

/// PEFT's get_pattern_key matches (.*\.)?(key)$ from the start of a path. Throws ConfigError for
/// what is no regular expression (ECMAScript).
std::regex compile(const std::string& expression) {
  if (expression.size() > kMaxExpression)
    throw configs::ConfigError("expected a regular expression of at most " +
                               std::to_string(kMaxExpression) + " bytes, found " +
                               std::to_string(expression.size()));
  if (has_long_number(expression))
    throw configs::ConfigError("expected a regular expression with numbers of at most " +
                               std::to_string(kMaxDigits) + " digits, found \"" + expression + '"');
  try {
    return std::regex("(.*\\.)?(" + expression + ')');
  } catch (const std::regex_error& e) {
    throw configs::ConfigError("expected a regular expression, found \"" + expression + "\" (" +
                               e.what() + ')');
  }
}

/// A model with many experts asks tens of thousands of times for the same few.
const std::regex& compiled(const std::string& expression) {
  thread_local std::map<std::string, std::regex> known;
  const auto found = known.find(expression);
  return found != known.end() ? found->second
                              : known.emplace(expression, compile(expression)).first->second;
}

const double* first_match(const Pattern& pattern, const std::string& path) {
  for (const auto& [expression, value] : pattern) {
    const auto& regex = compiled(expression);
    try {
      if (std::regex_match(path, regex)) return &value;
    } catch (const std::regex_error&) {  // found while matching
      throw configs::ConfigError("the regular expression \"" + expression +
                                 "\" is too complex for \"" + path + '"');
    }
  }
  return nullptr;
}

Pattern read_pattern(configs::Section& section, const std::string& key, configs::Range range) {
  auto pattern = section.numbers(key, range);
  for (const auto& [expression, value] : pattern) check_expression(section, key, expression);
  return pattern;
}

/// A list of names, or one string that is a regular expression; the answer is whether it is one.
bool read_modules(configs::Section& section, const std::string& key,
                  std::vector<std::string>& modules, bool is_pattern) {
  auto given = section.names(key, /*required=*/false);
  if (!section.is_list(key) && given.empty()) return is_pattern;
  modules = std::move(given);
  if (section.is_list(key)) return false;
  check_expression(section, key, modules.front());
  return true;
}

/// The enumerator at the place of the word.
template <class Enum>
Enum read_word(configs::Section& section, const std::string& key, Enum fallback,
               std::initializer_list<const char*> words) {
  const std::string word =
      section.choice(key, words, words.begin()[static_cast<std::size_t>(fallback)]);
  return static_cast<Enum>(std::ranges::find(words, word) - words.begin());
}

void tell_other_words(configs::Section& section) {
  section.alias("lora_r", "r");
  section.alias("lora_rank", "r");
  section.redirect("rank", "r");
  section.redirect("dim", "r");
  section.redirect("alpha", "lora_alpha");
  section.redirect("dropout", "lora_dropout");
  section.redirect("lora_target", "target_modules");
  section.redirect("lora_target_modules", "target_modules");
}

}  // namespace

void check_expression(configs::Section& section, const std::string& key,
                      const std::string& expression) {
  try {
    compile(expression);
  } catch (const configs::ConfigError& e) {
    section.report(key, e.what());
  }
}

std::int64_t LoraConfig::rank_of(const std::string& path) const {
  const auto* value = first_match(rank_pattern, path);
  return value == nullptr ? r : std::llround(*value);
}

double LoraConfig::alpha_of(const std::string& path) const {
  const auto* value = first_match(alpha_pattern, path);
  return value == nullptr ? lora_alpha : *value;
}

double LoraConfig::scale_of(const std::string& path) const {
  const auto rank = static_cast<double>(rank_of(path));
  return alpha_of(path) / (use_rslora ? std::sqrt(rank) : rank);
}

const char* LoraConfig::rank_key(const std::string& path) const {
  return first_match(rank_pattern, path) == nullptr ? "r" : "rank_pattern";
}

LoraConfig with_expert_ranks(LoraConfig config, std::int64_t num_experts_per_tok,
                             const std::string& place) {
  if (config.moe_rank == MoeRank::Same) return config;
  if (num_experts_per_tok < 1)
    throw configs::ConfigError(place + ": divide needs a model with routed experts");
  if (config.r % num_experts_per_tok != 0)
    throw configs::ConfigError(place + ": divide needs a rank that is a multiple of the model's " +
                               std::to_string(num_experts_per_tok) +
                               " experts per token, found r = " + std::to_string(config.r));
  const std::string experts = R"(experts\.[0-9]+\.[^.]+)";
  const auto rank = static_cast<double>(config.r / num_experts_per_tok);
  const auto share = rank / static_cast<double>(config.r);
  config.rank_pattern.emplace_back(experts, rank);
  if (config.moe_scale == MoeScale::KeepS)
    config.alpha_pattern.emplace_back(
        experts, config.lora_alpha * (config.use_rslora ? std::sqrt(share) : share));
  // What PEFT makes of experts that are one parameter: gate and up have a rank of both together.
  for (const auto& [parameter, ranks] :
       {std::pair(R"(experts\.gate_up_proj)", 2.0), std::pair(R"(experts\.down_proj)", 1.0)}) {
    config.rank_pattern.emplace_back(parameter, ranks * rank);
    if (config.moe_scale == MoeScale::KeepS)
      config.alpha_pattern.emplace_back(
          parameter,
          config.lora_alpha * (config.use_rslora ? std::sqrt(ranks * share) : ranks * share));
  }
  config.moe_rank = MoeRank::Same;
  return config;
}

LoraConfig read_lora(configs::Section& section) {
  constexpr std::int64_t kMaxRank = 1 << 20;
  constexpr configs::Range kPositive{.min = 0.0, .open_min = true};
  tell_other_words(section);
  LoraConfig config;
  config.r = section.integer("r", config.r, 1, kMaxRank);
  config.lora_alpha = section.number("lora_alpha", config.lora_alpha, kPositive);
  config.lora_dropout = section.number("lora_dropout", config.lora_dropout,
                                       {.min = 0.0, .max = 1.0, .open_max = true});
  config.use_rslora = section.boolean("use_rslora", config.use_rslora);
  config.target_is_pattern =
      read_modules(section, "target_modules", config.target_modules, config.target_is_pattern);
  if (config.target_modules.empty() && !section.failed("target_modules"))
    section.report("target_modules", "expected the layers to adapt, found an empty list");
  config.exclude_is_pattern =
      read_modules(section, "exclude_modules", config.exclude_modules, config.exclude_is_pattern);
  config.rank_pattern =
      read_pattern(section, "rank_pattern", {.min = 1.0, .max = static_cast<double>(kMaxRank)});
  for (const auto& [expression, rank] : config.rank_pattern)
    if (rank != std::floor(rank))
      section.report("rank_pattern", "expected a whole rank for \"" + expression + "\", found \"" +
                                         configs::number_text(rank) + '"');
  config.alpha_pattern = read_pattern(section, "alpha_pattern", kPositive);
  const auto init = section.choice("init_lora_weights", {"true", "false", "gaussian"}, "true");
  config.init_lora_weights = init == "gaussian" ? InitLora::Gaussian
                             : init == "false"  ? InitLora::Random
                                                : InitLora::Default;
  config.expert_lora = read_word(section, "expert_lora", config.expert_lora,
                                 {"per_expert", "shared", "shared_outer"});
  config.moe_rank = read_word(section, "moe_rank", config.moe_rank, {"same", "divide"});
  config.moe_scale = read_word(section, "moe_scale", config.moe_scale, {"keep_s", "keep_alpha"});
  for (const auto* key : {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "exclude_modules",
                          "lora_dropout", "expert_lora", "moe_rank"})
    config.places[key] = section.place(key);
  return config;
}

}  // namespace tailor::peft
