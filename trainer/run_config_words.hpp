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
