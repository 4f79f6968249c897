#pragma once

#include <memory>
#include <string>
#include <vector>

#include "models/text/tokenizer.hpp"
#include "trainer/grpo/advantages.hpp"
#include "trainer/grpo/policy.hpp"
#include "trainer/grpo/scorer.hpp"
#include "trainer/rewards/reward.hpp"

namespace tailor::trainer {

/// What GRPO is given beside the model: prompts, and what judges their completions.
struct GrpoTask {
  std::vector<PromptRow> train, eval;
  std::shared_ptr<const models::text::Tokenizer> tokenizer;
  std::vector<std::int64_t> stop_ids;  // tokens that end a completion
  std::vector<RewardConfig> reward_configs;
  /// One each, on the rank that scores of those that hold the same samples; none on the others.
  std::vector<std::unique_ptr<Reward>> rewards;
};

std::vector<double> reward_weights(const GrpoTask& task);

/// A group to sample: `group` within its batch, of row `row`.
struct Planned {
  std::int64_t group, row;
};

/// How completions are drawn.
struct Drawing {
  double temperature = 1.0;  // 0: greedy
  std::int64_t num_generations = 8;
  std::uint64_t seed = 0;
  std::int64_t first_sequence = 0;          // random stream of the first completion of group 0
  models::ForwardRecord* record = nullptr;  // keeps the forwards, for an update by the same weights
};

/// Completes the prompts of the groups planned, `num_generations` each. The tokens are a function
/// of (seed, group, number within it) and the weights, whatever else is sampled and on which rank.
/// Collective over the ranks that share the model. Throws NumericError where logits are not finite.
std::vector<Rollout> draw(const Policy& policy, const std::vector<PromptRow>& rows,
                          const GrpoTask& task, const std::vector<Planned>& planned,
                          const Drawing& drawing);

/// What ended a completion.
enum class Ending { Length, EndToken, StopString };
/// "length", "eos_token", "stop_string".
std::string name_of(Ending ending);
Ending ending_of(const GrpoTask& task, const Rollout& rollout);

/// What the rewards are told of completions, one a rollout.
std::vector<Judged> judged_of(const GrpoTask& task, const std::vector<PromptRow>& rows,
                              const std::vector<Rollout>& rollouts);

/// Scores of the samples of all ranks and what is counted of them, in the order of the groups.
struct Judgement {
  /// One a reward. A sample that some reward failed at is scored by none (see RewardFault): what
  /// the others say of it counts nowhere.
  std::vector<RewardColumn> functions;
  std::vector<double> lengths;  // tokens
  std::vector<Ending> endings;
  std::int64_t num_faulted = 0;  // samples that a failing reward cost
  bool scored = false;           // some sample has a score,
  bool failed = false;           // some reward failed at one; the same on all ranks
};

/// Number of each rollout among the samples of all ranks; those of a group are neighbours.
std::vector<std::int64_t> places_of(const std::vector<Rollout>& rollouts,
                                    std::int64_t num_generations);
/// Lines of all ranks on the first, in the order of the ranks. Collective.
std::vector<std::string> all_lines(const std::vector<std::string>& own, distributed::Group& data);

/// Warns of what went wrong with rewards on all ranks, a few samples by name: "reward judge at step
/// 4, prompts.jsonl:12, completion 3: timed out after 10 s". `where`: "step 4". Collective.
void warn_of_faults(const GrpoTask& task, const std::vector<PromptRow>& rows,
                    const std::vector<Rollout>& rollouts, const Scored& scored,
                    const std::string& where, std::int64_t num_generations,
                    distributed::Group& data);

/// Shares the scores of `rollouts`, this rank's part of num_groups groups, with all ranks; `scored`
/// is empty where the rank has no rewards. Collective.
Judgement judge(const GrpoTask& task, const std::vector<Rollout>& rollouts, const Scored& scored,
                std::int64_t num_groups, std::int64_t num_generations,
                const distributed::Mesh& mesh);

}  // namespace tailor::trainer
