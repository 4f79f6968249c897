#pragma once

#include <string>
#include <vector>

#include "configs/reader.hpp"
#include "trainer/rewards/reward_config.hpp"
#include "trainer/run_config_paths.hpp"

namespace tailor::trainer {

/// Reads the list `rewards` of a job, of at least one. An entry is one of
///
///   {name: numeric_answer, weight: 1.0, label: answer}    a built-in reward; label: its name in
///                                                         metrics, where one is used twice
///   {python: reward.py:function, name: mine}              the function `reward` where none is
///   named {command: [./score, --fast], name: mine}              JSON lines {url:
///   "http://host:8000/score", name: mine}           JSON over HTTP
///
/// with the keys of RewardConfig that its kind has; other kinds' are refused. Problems are noted.
/// Where a job has no max_length for an overlong reward, needs_max_length() says so.
std::vector<RewardConfig> read_rewards(configs::Section& root, const PathBase& base);

/// The list as YAML, "rewards:\n  - {...}\n", that read_rewards() reads as the same; paths are
/// absolute. Nothing for an empty list.
std::string rewards_yaml(const std::vector<RewardConfig>& rewards);

}  // namespace tailor::trainer
