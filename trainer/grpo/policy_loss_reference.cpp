// The formulas of policy_loss.hpp in tensor operations, response by response; autograd derives
// them.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/log.h>
#include <ATen/ops/masked_select.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/square.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "trainer/grpo/kl.hpp"
#include "trainer/grpo/policy_loss.hpp"

namespace tailor::trainer {
namespace {

at::Tensor within_limit(const at::Tensor& x) { return x.clamp(-kLogRatioLimit, kLogRatioLimit); }

/// One response's loss tokens (L), float64; logprobs carry the gradient.
struct Tokens {
  at::Tensor logprobs, old, sampler, reference, weights, policy_mask;
  double advantage;
};

at::Tensor clipped(const at::Tensor& ratio, double advantage, const GrpoConfig& config) {
  const auto capped = config.delta ? ratio.clamp_max(*config.delta) : ratio;
  const auto bounded = ratio.clamp(1.0 - config.epsilon, 1.0 + config.clip_high());
  const auto loss = -at::minimum(capped * advantage, bounded * advantage);
  if (!config.dual_clip || advantage >= 0.0) return loss;
  return loss.clamp_max(-*config.dual_clip * advantage);
}

at::Tensor minirl_weights(const Tokens& x, const at::Tensor& ratio, const GrpoConfig& config) {
  auto kept = at::ones_like(x.logprobs);
  if (x.advantage > 0.0) kept = (ratio <= 1.0 + config.clip_high()).to(at::kDouble);
  if (x.advantage < 0.0) kept = (ratio >= 1.0 - config.epsilon).to(at::kDouble);
  return kept * within_limit(x.logprobs - x.sampler).exp().clamp_max(kMiniRlCap);
}

at::Tensor vespo_weight(const Tokens& x, const GrpoConfig& config) {
  const auto positive = x.advantage >= 0.0;
  const auto k = positive ? config.vespo_k_pos : config.vespo_k_neg;
  const auto lambda = positive ? config.vespo_lambda_pos : config.vespo_lambda_neg;
  const auto ratios = within_limit(x.logprobs - x.old).sum();
  const auto weights = x.weights.log().clamp(kVespoLowest, kLogRatioLimit).sum();
  const auto log_w = (ratios + weights).clamp(kVespoLowest, kLogRatioLimit);
  return (lambda + k * log_w - lambda * log_w.exp()).exp();
}

at::Tensor policy_terms(const Tokens& x, const at::Tensor& ratio, const GrpoConfig& config) {
  const auto advantage = x.advantage;
  switch (config.loss_type) {
    case LossType::Grpo:
    case LossType::Dapo:
    case LossType::DrGrpo:
    case LossType::Bnpo:
    case LossType::Luspo:
      return clipped(ratio, advantage, config);
    case LossType::Sapo: {
      const auto tau = advantage > 0.0 ? config.sapo_temperature_pos : config.sapo_temperature_neg;
      return -(tau * (ratio - 1.0)).sigmoid() * (4.0 / tau) * advantage;
    }
    case LossType::Cispo:
      return -ratio.clamp_max(config.clip_high()).detach() * advantage * x.logprobs;
    case LossType::MiniRl:
      return -minirl_weights(x, ratio, config).detach() * advantage * x.logprobs;
    case LossType::Vespo:
      return -vespo_weight(x, config).detach() * advantage * x.logprobs;
  }
  return {};
}

at::Tensor kl_terms(const Tokens& x, const at::Tensor& ratio, const GrpoConfig& config) {
  const auto u = x.logprobs - x.reference, bounded = within_limit(u);
  const auto k2 = u.square() / 2, k3 = (-bounded).exp() - 1.0 + bounded;
  const auto with_gradient_of_k2 = [&](const at::Tensor& value) {
    return k2 - k2.detach() + value.detach();
  };
  at::Tensor kl;
  switch (config.kl_estimator) {
    case KlEstimator::K1:
      kl = u;
      break;
    case KlEstimator::K2:
      kl = k2;
      break;
    case KlEstimator::K3:
      kl = k3;
      break;
    case KlEstimator::K1Plus:
      kl = with_gradient_of_k2(u);
      break;
    case KlEstimator::K3Plus:
      kl = with_gradient_of_k2(k3);
      break;
  }
  return config.use_bias_correction_kl ? ratio * kl : kl;
}

/// Terms before aggregation (L).
at::Tensor terms(const Tokens& x, const GrpoConfig& config) {
  auto log_ratio = x.logprobs - x.old;
  if (config.importance_sampling_level == RatioLevel::Sequence) log_ratio = log_ratio.mean();
  const auto ratio = within_limit(log_ratio).exp();
  auto out = policy_terms(x, ratio, config) * x.policy_mask;
  if (!holds_correction(config.loss_type)) out = out * x.weights;
  const auto drift = (x.sampler - x.logprobs).mean().item<double>();
  if (config.off_policy_mask_threshold && x.advantage < 0.0 &&
      drift > *config.off_policy_mask_threshold)
    out = out * 0.0;
  if (x.reference.defined() && config.beta != 0.0 && config.kl_in == KlPlace::Loss)
    out = out + kl_terms(x, ratio, config) * config.beta;
  return out;
}

}  // namespace

PolicyLoss policy_loss_reference(const PolicyBatch& batch, const GrpoConfig& config,
                                 const Normalizer& normalizer) {
  check_responses(batch);
  const at::AutoGradMode with_grad(true);
  const auto logprobs_S = batch.logprobs_S.detach().to(at::kDouble).clone().requires_grad_();
  auto loss = at::zeros({}, logprobs_S.options());
  PolicyLoss out;
  out.losses_S = at::zeros_like(logprobs_S);
  for (std::size_t i = 0; i < batch.advantages.size(); ++i) {
    const auto begin = batch.offsets[i], length = batch.offsets[i + 1] - begin;
    const auto counts = batch.mask_S.narrow(0, begin, length) != 0;
    const auto tokens = [&](const at::Tensor& rows_S) {
      return rows_S.to(at::kDouble).narrow(0, begin, length).masked_select(counts);
    };
    const auto or_else = [&](const at::Tensor& rows_S, const at::Tensor& fallback) {
      return rows_S.defined() ? tokens(rows_S) : fallback;
    };
    Tokens x;
    x.logprobs = tokens(logprobs_S);
    if (x.logprobs.numel() == 0) continue;
    x.old = or_else(batch.old_S, x.logprobs.detach());
    x.sampler = or_else(batch.sampler_S, x.old);
    x.reference = or_else(batch.reference_S, {});
    x.weights = or_else(batch.weights_S, at::ones_like(x.old));
    x.policy_mask = or_else(batch.policy_mask_S, at::ones_like(x.old));
    x.advantage = batch.advantages[i];
    const auto values = terms(x, config);
    out.losses_S.narrow(0, begin, length).masked_scatter_(counts, values.detach());
    const auto num_tokens = static_cast<double>(x.logprobs.numel());
    loss = loss + values.sum() / divisor(config.loss_type, num_tokens, normalizer);
  }
  if (loss.requires_grad()) loss.backward();
  out.loss = loss.item<double>();
  const auto gradient_S = logprobs_S.grad();
  out.dlogprobs_S = (gradient_S.defined() ? gradient_S : at::zeros_like(logprobs_S))
                        .to(batch.logprobs_S.scalar_type());
  return out;
}

}  // namespace tailor::trainer
