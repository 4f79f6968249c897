#pragma once

#include <vector>

#include "trainer/grpo/policy.hpp"

namespace tailor::trainer {

/// Writes into fresh rollouts what the updates made from them compare with, as far as the
/// configuration asks for it, under the weights of now, which are those that sampled them: the
/// log-probabilities of the reference and of the policy, the mask of the tokens of most entropy,
/// and which tokens importance_sampling_reject drops. `num_updates`: of the whole batch; the first
/// one of weights that have not moved needs no log-probabilities from before it. `record`, or null,
/// is of the forwards that sampled them. Collective.
void measure_rollouts(const Policy& policy, std::vector<Rollout>& rollouts,
                      std::int64_t num_updates, const StepSettings& settings,
                      models::ForwardRecord* record = nullptr);

/// The divergence is part of the rewards, and not of the loss.
bool takes_kl_off_rewards(const GrpoConfig& config);

}  // namespace tailor::trainer
