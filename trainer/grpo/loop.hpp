#pragma once

#include "trainer/grpo/sampling.hpp"
#include "trainer/sft/adapter_training.hpp"

namespace tailor::trainer {

/// How batches of rollouts and optimizer steps fit together, over `data_ranks` ranks that see
/// different data.
struct BatchPlan {
  std::int64_t num_groups;       // prompts of a batch of rollouts
  std::int64_t updates_in_pass;  // optimizer steps that one pass over it makes
  std::int64_t num_updates;      // of all num_iterations passes
};
/// Throws ConfigError where completions do not make whole groups.
BatchPlan batch_plan(const RunConfig& config, std::int64_t data_ranks);

/// Optimizer steps of the whole run: max_steps, or so many as num_train_epochs take.
std::int64_t grpo_total_steps(const RunConfig& config, std::int64_t num_rows,
                              std::int64_t data_ranks);

/// Memory for what linear layers answered while a batch was sampled: reuse_forward_mb, or 0 where a
/// first update on `device` would not compute the very same: of older weights, over ranks that
/// share a model, or where it matters which tokens are computed together.
std::int64_t reused_forward_bytes(const RunConfig& config, at::Device device);

/// Group relative policy optimization (Shao et al. 2024, arXiv:2402.03300) until the last step or a
/// signal to any rank: sample a batch of groups, score it, make its updates; report, evaluate and
/// save by the intervals of the configuration and at the end. The model that samples is the model
/// that trains. With max_staleness the next batch is sampled before the last updates of this one,
/// and its rewards are asked while those are made and the batch behind it is sampled; what is
/// sampled when does not depend on how long rewards take. A checkpoint in the middle of a batch
/// holds what is left of it, and the next batch where it is there. Throws NumericError, also of the
/// tripwires, behind the report of the step that they stop at.
TrainResult train_grpo(TrainRun run, const GrpoTask& task);

}  // namespace tailor::trainer
