#pragma once

#include <vector>

#include "trainer/grpo/sampling.hpp"
#include "trainer/grpo/update.hpp"
#include "trainer/metrics/metrics.hpp"

namespace tailor::trainer {

/// What metrics.jsonl tells of GRPO, by TRL's names where it has them.

/// Of scored completions: rewards, their spread and histogram, lengths, what ended them: shares of
/// the length limit (clipped_ratio), of end tokens and of stop strings, which add up to 1.
std::vector<Metric> batch_facts(const GrpoTask& task, const Judgement& judgement,
                                const Advantages& weighed);
/// Of an update: entropy, divergence, clipping, and the sampler against the trainer where both are
/// known.
std::vector<Metric> update_facts(const UpdateReport& report, const GrpoConfig& config);
/// Of greedily completed evaluation prompts, names with "eval_" in front; no "step".
std::vector<Metric> evaluation_facts(const GrpoTask& task, const Judgement& judgement,
                                     const Advantages& weighed);

}  // namespace tailor::trainer
