#include "trainer/grpo/evaluate.hpp"

#include <algorithm>
#include <iterator>
#include <memory>

#include "trainer/grpo/facts.hpp"

namespace tailor::trainer {
namespace {

/// Rollout batches of a rank between two questions whether to go on.
constexpr std::int64_t kBatches = 2;

}  // namespace

std::optional<PromptEvaluation> evaluate_prompts(
    const Policy& policy, const GrpoTask& task, std::uint64_t seed, Scorer& scorer,
    const std::function<bool(std::int64_t, std::int64_t)>& goes_on) {
  const auto& data = *policy.mesh.data;
  const auto num_rows = static_cast<std::int64_t>(task.eval.size());
  const auto piece = kBatches * policy.config.rollout_batch_size * data.size();
  std::vector<Rollout> rollouts;  // of this rank
  for (std::int64_t first = 0; first < num_rows; first += piece) {
    if (!goes_on(first, num_rows)) return std::nullopt;
    std::vector<Planned> own;
    for (auto row = first + data.rank(); row < std::min(first + piece, num_rows);
         row += data.size())
      own.push_back({.group = row, .row = row});
    auto drawn =
        draw(policy, task.eval, task, own,
             {.temperature = 0.0, .num_generations = 1, .seed = seed, .first_sequence = 0});
    std::ranges::move(drawn, std::back_inserter(rollouts));
  }
  auto scored = scorer.start(
      std::make_shared<const std::vector<Judged>>(judged_of(task, task.eval, rollouts)));
  const auto answers = scored.get();
  const auto judged = judge(task, rollouts, answers, num_rows, /*num_generations=*/1, policy.mesh);
  warn_of_faults(task, task.eval, rollouts, answers, "evaluation", /*num_generations=*/1,
                 *policy.mesh.data);
  const auto weighed = advantages(judged.functions, reward_weights(task), 1, ScaleRewards::None);
  return PromptEvaluation{weighed.reward.mean, evaluation_facts(task, judged, weighed)};
}

}  // namespace tailor::trainer
