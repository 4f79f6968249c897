#pragma once

#include <ATen/core/Tensor.h>

#include "trainer/grpo/grpo_config.hpp"
#include "trainer/grpo/policy_batch.hpp"

namespace tailor::trainer {

/// What losses are divided by: sums over every micro-batch and rank of the optimizer step, so that
/// no cut of the batch shows. (bnpo is the mean over one rank's tokens, or one micro-batch's: its
/// caller gives `tokens` accordingly.)
struct Normalizer {
  double tokens;      // that count
  double sequences;   // responses, also those without a token that counts
  double max_length;  // max_completion_length
};

/// What the sum over a response's loss tokens, `length` of them, is divided by in the loss.
double divisor(LossType type, double length, const Normalizer& normalizer);

constexpr double kMiniRlCap = 5.0;  // of the ratio to the sampler
/// ln 1e-8, below which vespo takes no ln W (its authors' code), nor above kLogRatioLimit.
constexpr double kVespoLowest = -18.420680743952367;

/// Losses whose own weight holds the sampler's ratio: correction weights do not multiply them.
constexpr bool holds_correction(LossType type) {
  return type == LossType::MiniRl || type == LossType::Vespo;
}

/// What is told of the policy; add those of micro-batches and ranks.
struct PolicySums {
  double tokens = 0.0;     // that count
  double sequences = 0.0;  // with such a token
  /// Clipped at the lower bound (A < 0), at the upper one (A > 0; cispo: capped), out of
  /// `num_ratios` tokens, or responses where the ratio is one of sequences.
  double clip_low = 0.0, clip_high = 0.0, num_ratios = 0.0;
  double clip_low_min = 1.0, clip_high_max = 0.0;  // share of a response: smallest, largest
  double ratio = 0.0, ratio_max = 0.0;             // of the num_ratios
  double kl = 0.0;                                 // k3 against the reference, over tokens
  double approx_kl = 0.0;  // k3 of KL(old, logprobs), r - 1 - ln r, over tokens
  double logprob_difference = 0.0, logprob_difference_max = 0.0;  // |logprobs - old|
  double num_clamped = 0.0;                                       // ratios beyond kLogRatioLimit
  double num_dropped = 0.0;  // responses, by off_policy_mask_threshold
  double vespo_phi = 0.0;    // over responses

  PolicySums& operator+=(const PolicySums& other);
};

struct PolicyLoss {
  double loss = 0.0;  // this batch's part of the whole step's
  /// Gradient of `loss` by logprobs_S, of its dtype and device; 0 where the mask is 0. A head's
  /// gradient is linear in it, row by row: rows d logprob / d hidden may be made in the same pass
  /// as the log-probabilities, for any loss, and multiplied by this afterwards.
  at::Tensor dlogprobs_S;
  at::Tensor losses_S;  // float64: the token's term before aggregation, masks and weights included
  PolicySums sums;
};

/// The loss of GRPO and its relatives, to be minimised, with its gradient in closed form (float64
/// inside). With r = exp(lp - old), or at RatioLevel::Sequence s = exp(mean of lp - old over the
/// response's loss tokens) for all of them (GSPO, arXiv:2507.18071), A the advantage, and sg[.]
/// constant for the gradient:
///   grpo, dapo,    -min(min(r, delta) A, clip(r, 1 - epsilon, 1 + epsilon_high) A); with dual_clip
///   dr_grpo,       at most -dual_clip A where A < 0 (arXiv:2402.03300, 2503.14476, 2503.20783,
///   bnpo, luspo    1912.09729, 2602.05261; delta: INTELLECT-2, arXiv:2505.07291)
///   cispo          -sg[min(r, epsilon_high)] A lp (arXiv:2506.13585)
///   sapo           -(4 / tau) sigmoid(tau (r - 1)) A, tau by the sign of A (arXiv:2511.20347)
///   minirl         -sg[M min(exp(lp - sampler), 5)] A lp; M = 0 where (A > 0, r > 1 +
///                  epsilon_high) or (A < 0, r < 1 - epsilon), else 1 (arXiv:2512.01374)
///   vespo          -sg[exp(lambda + k ln W - lambda W)] A lp, W the product of r and of the
///                  correction weights over the response (arXiv:2602.10693)
/// This is multiplied by the correction weights (minirl and vespo hold them already), by
/// policy_mask_S and by 0 where off_policy_mask_threshold drops a response (A < 0 and mean of
/// sampler - lp beyond it; DeepSeek-V3.2). To it comes beta times kl_term() where kl_in is the
/// loss, times r with use_bias_correction_kl. Sums over loss tokens are then divided:
///   grpo, sapo                  by the response's loss tokens and by Normalizer::sequences
///   dapo, bnpo, cispo, vespo    by Normalizer::tokens
///   dr_grpo                     by Normalizer::sequences times max_length
///   minirl, luspo               by Normalizer::sequences
/// ln r is kept within kLogRatioLimit, with gradient 0 beyond. Throws std::invalid_argument where
/// sizes do not fit.
PolicyLoss policy_loss(const PolicyBatch& batch, const GrpoConfig& config,
                       const Normalizer& normalizer);
/// The same by autograd, without sums; for tests.
PolicyLoss policy_loss_reference(const PolicyBatch& batch, const GrpoConfig& config,
                                 const Normalizer& normalizer);

/// sum of ln old - ln reference over the loss tokens of every response, what KlPlace::Reward takes
/// off its reward, times beta.
std::vector<double> response_kl(const std::vector<std::int64_t>& offsets, const at::Tensor& mask_S,
                                const at::Tensor& old_S, const at::Tensor& reference_S);

}  // namespace tailor::trainer
