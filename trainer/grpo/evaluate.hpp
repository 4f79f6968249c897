#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "trainer/grpo/sampling.hpp"
#include "trainer/metrics/metrics.hpp"

namespace tailor::trainer {

struct PromptEvaluation {
  double reward = 0.0;        // the mean, weighed
  std::vector<Metric> facts;  // evaluation_facts()
};

/// Completes the task's evaluation prompts greedily and scores the completions. `goes_on` gets
/// prompts done and all, and breaks off with false, which must be the same on all ranks: then there
/// is no answer. Collective; every rank gets the answer.
std::optional<PromptEvaluation> evaluate_prompts(
    const Policy& policy, const GrpoTask& task, std::uint64_t seed, Scorer& scorer,
    const std::function<bool(std::int64_t done, std::int64_t all)>& goes_on);

}  // namespace tailor::trainer
