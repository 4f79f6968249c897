#pragma once

#include <memory>

#include "trainer/rewards/reward.hpp"

namespace tailor::trainer {

/// A Python function of TRL's signature, reward(prompts, completions, **columns), in children that
/// each take a share of the samples in one call. A call that fails, whatever the reason, is made
/// again sample by sample, so that only the samples at fault stay unscored; a function that
/// compares samples with each other should therefore have one worker and not fail.
std::unique_ptr<Reward> make_python_reward(const RewardConfig& config);

/// A program that answers each line of JSON with one, a sample at a time.
std::unique_ptr<Reward> make_command_reward(const RewardConfig& config);

/// An HTTP server that answers a POST of a batch; see exchange.hpp. As many requests at once as
/// `workers`. Without libcurl: a ConfigError that says so.
std::unique_ptr<Reward> make_url_reward(const RewardConfig& config);

}  // namespace tailor::trainer
