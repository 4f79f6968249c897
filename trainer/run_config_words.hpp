#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>

#include "trainer/run_config.hpp"

namespace tailor::trainer {

/// The words of the job file, in the order of the enumerations.
inline constexpr std::initializer_list<const char*> kFormats{"messages", "prompt_completion",
                                                             "text", "tokens"};
inline constexpr std::initializer_list<const char*> kOverLengths{"truncate", "drop", "raise"};
inline constexpr std::initializer_list<const char*> kSchedules{"constant", "linear", "cosine",
                                                               "wsd"};
inline constexpr std::initializer_list<const char*> kExpertLora{"per_expert", "shared",
                                                                "shared_outer"};
inline constexpr std::initializer_list<const char*> kMoeRanks{"same", "divide"};
inline constexpr std::initializer_list<const char*> kMoeScales{"keep_s", "keep_alpha"};
inline constexpr std::initializer_list<const char*> kBalanceScopes{"global_batch", "micro_batch"};
inline constexpr std::initializer_list<const char*> kTokenDrops{"probs", "position"};
inline constexpr std::initializer_list<const char*> kLossTypes{
    "grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "minirl", "luspo", "vespo"};
inline constexpr std::initializer_list<const char*> kRatioLevels{"token", "sequence"};
inline constexpr std::initializer_list<const char*> kScaleRewards{"group", "batch", "none", "rloo",
                                                                  "bnpo_beta"};
inline constexpr std::initializer_list<const char*> kRewardAggregations{"sum_then_normalize",
                                                                        "normalize_then_sum"};
inline constexpr std::initializer_list<const char*> kKlEstimators{"k1", "k2", "k3", "k1+", "k3+"};
inline constexpr std::initializer_list<const char*> kKlPlaces{"loss", "reward", "off"};
inline constexpr std::initializer_list<const char*> kCorrections{
    "auto", "off", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "bypass"};
inline constexpr std::initializer_list<const char*> kRejects{
    "token_k1",    "token_k2",    "token_k3",    "seq_sum_k1", "seq_sum_k2", "seq_sum_k3",
    "seq_mean_k1", "seq_mean_k2", "seq_mean_k3", "seq_max_k2", "seq_max_k3"};

template <typename Enum>
std::string word_of(Enum value, std::initializer_list<const char*> words) {
  return words.begin()[static_cast<int>(value)];
}

/// Reads a key whose value is one of `words`.
template <typename Enum>
Enum read_word(configs::Section& section, const std::string& key,
               std::initializer_list<const char*> words, Enum fallback) {
  const std::string word = section.choice(key, words, word_of(fallback, words));
  return static_cast<Enum>(std::ranges::find(words, word) - words.begin());
}

}  // namespace tailor::trainer
