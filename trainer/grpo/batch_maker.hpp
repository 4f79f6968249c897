#pragma once

#include <string>
#include <vector>

#include "trainer/grpo/loop.hpp"
#include "trainer/grpo/sampling.hpp"
#include "trainer/metrics/metrics.hpp"

namespace tailor::trainer {

/// A batch of rollouts, ready for its updates, and what is told of it.
struct MadeBatch {
  RolloutBatch batch;
  std::vector<Metric> facts;         // reward, completions/mean_length, ...
  std::vector<std::string> records;  // lines of completions.jsonl, of this rank; without "step"
};

/// Samples, scores and weighs batches of rollouts.
class BatchMaker {
 public:
  /// Everything given outlives this.
  BatchMaker(const Policy& policy, const GrpoTask& task, const RunConfig& config,
             const BatchPlan& plan);

  /// Draws rows from `source` and random streams from `num_rollouts` on, and moves both. With
  /// dynamic sampling until all groups have spread, or the limit is reached. Collective.
  MadeBatch make(PromptSource& source, std::int64_t& num_rollouts, const StepSettings& settings);

 private:
  struct Collected;
  void sample_into(Collected& all, PromptSource& source, std::int64_t& num_rollouts);
  std::vector<bool> spread_of(const std::vector<RewardColumn>& functions) const;
  void keep(Collected& all, Drawn drawn, Judgement judged, std::int64_t num_groups) const;
  void measure_old(Collected& all, const StepSettings& settings) const;
  void measure_reference(Collected& all, const StepSettings& settings) const;
  void reject(Collected& all) const;
  void mask_low_entropy(std::vector<Rollout>& rollouts, const std::vector<float>& entropies) const;
  Advantages weigh(const Collected& all) const;
  void add_progress(const Collected& all, std::vector<Metric>& facts) const;
  void record(const Collected& all, const Advantages& weighed,
              const std::vector<std::int64_t>& places, MadeBatch& out) const;

  const Policy& policy_;
  const GrpoTask& task_;
  const RunConfig& config_;
  BatchPlan plan_;
  std::vector<double> weights_;
};

}  // namespace tailor::trainer
