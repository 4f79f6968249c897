#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "trainer/rewards/reward_config.hpp"

namespace tailor::trainer {

/// The built-in rewards in the job file, in the order of RewardKind.
inline constexpr std::initializer_list<const char*> kBuiltInRewards{
    "numeric_answer", "exact_answer", "regex",    "json_schema",
    "format_tags",    "length",       "overlong", "repetition"};

/// Of any kind: a built-in reward's name, or the key that makes an entry external.
inline std::string word_of_kind(RewardKind kind) {
  switch (kind) {
    case RewardKind::Python:
      return "python";
    case RewardKind::Command:
      return "command";
    case RewardKind::Url:
      return "url";
    default:
      return kBuiltInRewards.begin()[static_cast<int>(kind)];
  }
}

struct KeyOfRewards {
  const char* key;
  std::vector<RewardKind> kinds;
};

/// Which kinds of reward have which keys, besides name, label and weight.
inline const std::vector<KeyOfRewards> kKeysOfRewards{
    {"column", {RewardKind::NumericAnswer, RewardKind::ExactAnswer}},
    {"tolerance", {RewardKind::NumericAnswer}},
    {"ignore_case", {RewardKind::ExactAnswer}},
    {"ignore_punctuation", {RewardKind::ExactAnswer}},
    {"pattern", {RewardKind::Regex}},
    {"schema", {RewardKind::JsonSchema}},
    {"tags", {RewardKind::FormatTags}},
    {"strict", {RewardKind::FormatTags}},
    {"min_length", {RewardKind::Length}},
    {"max_length", {RewardKind::Length, RewardKind::Overlong}},
    {"cache_length", {RewardKind::Overlong}},
    {"ngram_size", {RewardKind::Repetition}},
    {"max_penalty", {RewardKind::Repetition}},
    {"python", {RewardKind::Python}},
    {"python_executable", {RewardKind::Python}},
    {"start_timeout_s", {RewardKind::Python}},
    {"command", {RewardKind::Command}},
    {"url", {RewardKind::Url}},
    {"workers", {RewardKind::Python, RewardKind::Command, RewardKind::Url}},
    {"timeout_s", {RewardKind::Python, RewardKind::Command, RewardKind::Url}},
    {"memory_limit_mb", {RewardKind::Python, RewardKind::Command}},
    {"max_restarts", {RewardKind::Python, RewardKind::Command}},
    {"cwd", {RewardKind::Python, RewardKind::Command}},
};

}  // namespace tailor::trainer
