#include "trainer/grpo/measure.hpp"

#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/tensor.h>

#include <span>

#include "trainer/grpo/entropy_mask.hpp"
#include "trainer/grpo/reject.hpp"

namespace tailor::trainer {
namespace {

std::vector<float> listed(const at::Tensor& values) {
  return {values.const_data_ptr<float>(), values.const_data_ptr<float>() + values.numel()};
}

void measure_reference(const Policy& policy, std::vector<Rollout>& rollouts,
                       const StepSettings& settings) {
  if (!policy.config.asks_reference()) return;  // one that nobody asks costs a pass
  const AdapterOff off(policy.adapter);
  measure(policy, rollouts, settings, &Rollout::reference_logprobs);
}

/// `entropies`: of all tokens, in the order of the rollouts.
void mask_low_entropy(const Policy& policy, std::vector<Rollout>& rollouts,
                      std::span<const float> entropies) {
  std::vector<std::span<const float>> own;  // a rollout each
  std::vector<float> counting;
  for (const auto& rollout : rollouts) {
    own.push_back(entropies.first(rollout.ids.size()));
    entropies = entropies.subspan(rollout.ids.size());
    if (rollout.counts) counting.insert(counting.end(), own.back().begin(), own.back().end());
  }
  const auto threshold =
      entropy_threshold(gathered(at::tensor(counting, at::kFloat), *policy.mesh.data),
                        policy.config.top_entropy_quantile);
  for (std::size_t i = 0; i < rollouts.size(); ++i) {
    const auto entropies_S = at::tensor(std::vector<float>(own[i].begin(), own[i].end()));
    rollouts[i].policy_mask =
        listed(high_entropy_mask(entropies_S, at::ones_like(entropies_S), threshold));
  }
}

/// The first update of a batch computes them itself where it has the weights that sampled it.
void measure_old(const Policy& policy, std::vector<Rollout>& rollouts, std::int64_t num_updates,
                 const StepSettings& settings, models::ForwardRecord* record) {
  const auto& grpo = policy.config;
  const bool masks = grpo.top_entropy_quantile < 1.0;
  const bool rejects = !grpo.importance_sampling_reject.empty();
  const bool moves_on = num_updates > 1 || grpo.max_staleness > 0;
  const bool bypasses = grpo.importance_sampling_correction == Correction::Bypass;
  if ((!moves_on || bypasses) && !takes_kl_off_rewards(grpo) && !masks && !rejects) return;
  std::vector<float> entropies;
  measure(policy, rollouts, settings, &Rollout::old_logprobs, masks ? &entropies : nullptr, record);
  if (masks) mask_low_entropy(policy, rollouts, entropies);
}

/// Before the update, which divides by what is left.
void reject(const GrpoConfig& config, std::vector<Rollout>& rollouts) {
  const auto& rules = config.importance_sampling_reject;
  if (rules.empty()) return;
  for (auto& rollout : rollouts)
    rollout.kept =
        listed(kept_mask(rules, {0, rollout.size()}, at::ones({rollout.size()}, at::kFloat),
                         at::tensor(rollout.old_logprobs, at::kFloat),
                         at::tensor(rollout.sampler_logprobs, at::kFloat)));
}

}  // namespace

bool takes_kl_off_rewards(const GrpoConfig& config) {
  return config.beta > 0.0 && config.kl_in == KlPlace::Reward;
}

void measure_rollouts(const Policy& policy, std::vector<Rollout>& rollouts,
                      std::int64_t num_updates, const StepSettings& settings,
                      models::ForwardRecord* record) {
  measure_reference(policy, rollouts, settings);
  measure_old(policy, rollouts, num_updates, settings, record);
  reject(policy.config, rollouts);
}

}  // namespace tailor::trainer
