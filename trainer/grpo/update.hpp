#pragma once

#include <span>

#include "trainer/grpo/correction.hpp"
#include "trainer/grpo/policy.hpp"
#include "trainer/grpo/policy_loss.hpp"

namespace tailor::trainer {

struct UpdateReport {
  double loss = 0.0;
  double grad_norm = 0.0;            // before clipping
  std::int64_t num_tokens = 0;       // of prompts and completions in forward, of all ranks
  std::int64_t num_reused = 0;       // of them, whose linear layers' answers were the sampler's
  std::int64_t num_loss_tokens = 0;  // of all ranks
  double entropy = 0.0;              // mean over loss tokens
  PolicySums policy;                 // of all ranks
  MismatchSums mismatch;             // of all ranks; empty where the sampler's are not known
};

/// One optimizer step over `rollouts`, this rank's share: zero, count, forward and backward a
/// batch, reduce while the last backward runs, clip, check, update. Denominators are those of all
/// ranks, however the rollouts are cut; bnpo's are each rank's own tokens. Where a rollout has no
/// old_logprobs they are the ones this step computes, as for the first and only update of a batch.
/// Groups without gradient, as those of equal rewards are, have no backward, where no other rank
/// needs it. `correction` is resolved: not Auto. `record`, where it is given, is of the forwards
/// that sampled rollouts by these weights. Throws NumericError, before the parameters are touched,
/// where loss or gradient are not finite.
UpdateReport grpo_update(const Policy& policy, FlatParameters& trainable, AdamW& optimizer,
                         std::span<Rollout> rollouts, const GradientSync& sync,
                         const StepSettings& settings, Correction correction,
                         models::ForwardRecord* record = nullptr);

}  // namespace tailor::trainer
