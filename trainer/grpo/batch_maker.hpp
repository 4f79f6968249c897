#pragma once

#include <future>
#include <string>
#include <vector>

#include "trainer/grpo/loop.hpp"
#include "trainer/grpo/sampling.hpp"
#include "trainer/grpo/scorer.hpp"
#include "trainer/metrics/metrics.hpp"

namespace tailor::trainer {

/// A batch that is sampled and measured, and whose rewards are asked meanwhile.
struct PendingBatch {
  RolloutBatch batch;     // without advantages
  SharedSamples samples;  // one a rollout
  std::future<Scored> scored;
  double rollout_s = 0.0, measure_s = 0.0;  // 0 where a checkpoint held it
};

/// A batch of rollouts, ready for its updates, and what is told of it.
struct MadeBatch {
  RolloutBatch batch;
  bool rewards_failed = false;  // at samples, and scored none; the same on all ranks
  std::vector<Metric> facts;    // reward, completions/mean_length, ...
  /// Lines of completions.jsonl, of this rank; without "step". Discarded groups come last, numbered
  /// on from those that are learnt from.
  std::vector<std::string> records;
};

/// Samples, scores and weighs batches of rollouts.
class BatchMaker {
 public:
  /// Everything given outlives this. `record`, or null, keeps the forwards that sample.
  BatchMaker(const Policy& policy, const GrpoTask& task, const RunConfig& config,
             const BatchPlan& plan, Scorer& scorer, models::ForwardRecord* record);

  /// Samples a batch with the weights of now and asks the rewards. Draws rows from `source` and
  /// random streams from `num_rollouts` on, and moves both. Collective.
  PendingBatch draw(PromptSource& source, std::int64_t& num_rollouts, const StepSettings& settings);
  /// Goes on with a batch that was drawn before a restart: asks the rewards again.
  PendingBatch resume(RolloutBatch batch);
  /// Waits for the rewards and weighs them. With dynamic sampling more is drawn until all groups
  /// have spread, or the limit is reached. Collective.
  MadeBatch finish(PendingBatch pending, PromptSource& source, std::int64_t& num_rollouts,
                   const StepSettings& settings);

 private:
  struct Sample;
  struct Collected;
  PendingBatch sample(PromptSource& source, std::int64_t& num_rollouts, std::int64_t num_groups,
                      std::int64_t first_group, std::int64_t step);
  void ask_rewards(PendingBatch& pending);
  void collect(Collected& all, PendingBatch pending, std::int64_t step) const;
  bool records() const;
  std::vector<Sample> samples_of(const PendingBatch& drawn, const Scored& scored) const;
  void keep(Collected& all, PendingBatch drawn, const Judgement& judged,
            const Scored& scored) const;
  std::vector<double> kl_of(const Collected& all) const;
  Advantages weigh(const Collected& all) const;  // the divergence too, where rewards pay for it
  /// Throws NumericError for rewards that `scale_rewards` has no advantage of.
  Advantages weigh(const std::vector<RewardColumn>& functions,
                   const std::vector<double>& weights) const;
  void add_rejected(const Collected& all, std::vector<Metric>& facts) const;
  void add_progress(const Collected& all, std::vector<Metric>& facts) const;
  void record(const Collected& all, const Advantages& weighed,
              const std::vector<std::int64_t>& places, MadeBatch& out) const;

  const Policy& policy_;
  const GrpoTask& task_;
  const RunConfig& config_;
  BatchPlan plan_;
  Scorer& scorer_;
  models::ForwardRecord* record_;
  std::vector<double> weights_;
};

}  // namespace tailor::trainer
