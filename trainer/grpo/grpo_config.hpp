#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace tailor::trainer {

/// What a token's loss is; equations beside policy_loss().
enum class LossType { Grpo, Dapo, DrGrpo, Bnpo, Cispo, Sapo, MiniRl, Luspo, Vespo };
enum class RatioLevel { Token, Sequence };  // importance_sampling_level; Sequence is GSPO
enum class ScaleRewards { Group, Batch, None, Rloo, BnpoBeta };
enum class RewardAggregation { SumThenNormalize, NormalizeThenSum };  // the second is GDPO
/// Estimators of the divergence from the reference (Schulman 2020, "Approximating KL divergence").
/// A plus has the value of its name and the gradient of k2.
enum class KlEstimator { K1, K2, K3, K1Plus, K3Plus };
enum class KlPlace { Loss, Reward, Off };  // Off: it is measured and told alone
/// What is done about log-probabilities that the sampler and the trainer do not agree on. Auto:
/// nothing, since both are this program with the same numbers; batches of older weights have the
/// trainer's own log-probabilities under these.
enum class Correction {
  Auto,
  Off,
  TokenTruncate,
  TokenMask,
  SequenceTruncate,
  SequenceMask,
  Bypass
};

/// Measures of how far sampler and trainer are apart on a token or a response, beside kept_mask().
enum class RejectBy {
  TokenK1,
  TokenK2,
  TokenK3,
  SequenceSumK1,
  SequenceSumK2,
  SequenceSumK3,
  SequenceMeanK1,
  SequenceMeanK2,
  SequenceMeanK3,
  SequenceMaxK2,
  SequenceMaxK3
};
/// It is a ratio, which has a lower bound too.
constexpr bool bounds_ratio(RejectBy by) {
  return by == RejectBy::TokenK1 || by == RejectBy::SequenceSumK1 || by == RejectBy::SequenceMeanK1;
}
struct RejectRule {
  RejectBy by;
  double max;
  std::optional<double> min;  // of a ratio; absent: 1 / max
};

/// The job file's `grpo` section. Names and defaults are TRL's GRPOConfig where it has them.
struct GrpoConfig {
  // Rollouts
  std::int64_t num_generations = 8;
  std::int64_t max_completion_length = 256, min_new_tokens = 0;
  double temperature = 1.0, top_p = 1.0, min_p = 0.0, repetition_penalty = 1.0;
  std::int64_t top_k = 0;
  std::vector<std::string> stop;         // texts that end a completion, of which they remain a part
  std::int64_t rollout_batch_size = 32;  // sequences decoded together
  std::optional<std::int64_t> steps_per_generation;  // absent: the accumulation steps
  std::int64_t num_iterations = 1;                   // passes over one batch of rollouts
  /// Optimizer steps that a batch's first update may be ahead of the weights that sampled it.
  /// Above 0 the next batch is sampled before so many of the last updates of this one.
  std::int64_t max_staleness = 0;
  // Advantages
  ScaleRewards scale_rewards = ScaleRewards::Group;
  RewardAggregation multi_objective_aggregation = RewardAggregation::SumThenNormalize;
  // Policy loss
  LossType loss_type = LossType::Dapo;
  RatioLevel importance_sampling_level = RatioLevel::Token;
  double epsilon = 0.2;
  std::optional<double> epsilon_high;  // absent: epsilon; cispo needs it
  std::optional<double> delta;         // cap of the ratio in the unclipped branch (INTELLECT-2)
  std::optional<double> dual_clip;     // -c A bounds the loss where A < 0 (arXiv:1912.09729)
  double sapo_temperature_pos = 1.0, sapo_temperature_neg = 1.05;
  double vespo_k_pos = 2.0, vespo_lambda_pos = 3.0, vespo_k_neg = 3.0, vespo_lambda_neg = 2.0;
  std::optional<double> off_policy_mask_threshold;  // DeepSeek-V3.2
  double top_entropy_quantile = 1.0;                // policy term on tokens of most entropy alone
  double entropy_coef = 0.0;
  // Divergence from the reference, the model with the adapter off
  double beta = 0.0;
  KlEstimator kl_estimator = KlEstimator::K3;
  KlPlace kl_in = KlPlace::Loss;
  bool use_bias_correction_kl = false;
  // Sampler against trainer
  Correction importance_sampling_correction = Correction::Auto;
  double importance_sampling_clip_max = 2.0;
  std::optional<double> importance_sampling_clip_min;
  std::vector<RejectRule> importance_sampling_reject;  // what leaves the loss altogether
  /// Tripwire: mean |log-probability difference| of sampler and trainer at a batch's first update.
  /// Absent: by what multiplies, see mismatch_limit() of tripwires.hpp; 0: never.
  std::optional<double> mismatch_limit;
  // Batches
  bool mask_truncated_completions = false;
  bool dynamic_sampling = false;          // groups without spread are sampled anew (DAPO)
  std::int64_t max_num_gen_batches = 10;  // at most, for one batch; 0: no limit
  std::int64_t zero_spread_patience =
      20;  // steps without any spread before the job stops; 0: never
  /// Tripwire: a mean divergence above kl_limit at kl_patience steps in a row that measure one,
  /// from the reference or from the weights that sampled, stops the job; kl_limit 0: never.
  double kl_limit = 10.0;
  std::int64_t kl_patience = 3;
  bool log_completions = true;  // completions.jsonl
  bool share_prompts = true;    // a group's prompt is computed once in an update; false: every time
  /// Memory for what linear layers answered while completions were sampled, which their first
  /// update then does not compute again; 0: it does.
  std::int64_t reuse_forward_mb = 2048;

  /// The sampler's distribution is not softmax(logits / temperature).
  /// Keys that have completions drawn from another distribution than softmax(logits / temperature).
  std::vector<std::string> shaping_keys() const {
    std::vector<std::string> out;
    if (top_p < 1.0) out.push_back("top_p");
    if (top_k > 0) out.push_back("top_k");
    if (min_p > 0.0) out.push_back("min_p");
    if (repetition_penalty != 1.0) out.push_back("repetition_penalty");
    if (min_new_tokens > 0) out.push_back("min_new_tokens");
    return out;
  }
  double clip_high() const { return epsilon_high.value_or(epsilon); }
  bool asks_reference() const { return beta > 0.0 || kl_in == KlPlace::Off; }
  /// Dynamic sampling, when `rounds` were drawn for a batch that is not full yet.
  bool draws_more(std::int64_t rounds) const {
    return max_num_gen_batches == 0 || rounds < max_num_gen_batches;
  }
};

}  // namespace tailor::trainer
