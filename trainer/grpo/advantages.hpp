#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "trainer/grpo/grpo_config.hpp"

namespace tailor::trainer {

/// A reward function's scores over a batch; absent: the function has none for the sample, which the
/// others may score. A sample that a function failed at is absent in all: see Judgement.
using RewardColumn = std::vector<std::optional<double>>;

/// Over the scores that are there; deviation with n - 1. NaN of none (mean) and of fewer than two
/// (deviation), as TRL logs them.
struct Moments {
  double mean, deviation;
};

struct Advantages {
  std::vector<double> values;  // one a sample
  RewardColumn rewards;        // weighted sums; absent: no function scored the sample
  Moments reward;              // of these
  std::vector<Moments> functions;
  std::vector<double> group_deviations;  // of the rewards, with n - 1; of fewer than two: 0
  /// Whether the samples of a group differ, in what the advantages are made from. The advantages of
  /// a group that has no spread are exactly 0.
  std::vector<bool> group_has_spread;
  double frac_reward_zero_std = 0.0;  // share of groups without
};

/// What a sample is worth beside its group, from the scores of the whole batch over all ranks:
/// samples of a prompt stand side by side, `num_generations` at a time. With R a sample's weighted
/// sum of scores, s deviations with n - 1 and e = 1e-4:
///   group  (R - mean of group) / (s of group + e)    (Shao et al. 2024, arXiv:2402.03300)
///   batch  (R - mean of group) / (s of batch + e)
///   none   R - mean of group                         (Liu et al. 2025, arXiv:2503.20783)
///   rloo   R - mean of the others of the group       (Ahmadian et al. 2024, arXiv:2402.14740)
///   bnpo_beta  (R - p) / pdf(p), at most 1e6 times as large, for R from 0 to 1, p the group's mean
///          and pdf that of the Beta distribution whose parameters are 1 + a / 3 and 1 + b / 3,
///          each at least 1, where Beta(a, b) has mean and variance (n - 1) of p over the batch's
///          groups; R - p where these have no variance          (Xiao et al. 2025,
///          arXiv:2506.02864)
/// NormalizeThenSum takes `group` function by function, sums by weight and whitens over the batch,
/// (x - mean) / (s + e), whatever `scale` says (GDPO, arXiv:2601.05242). Samples that no function
/// scored count nowhere and have advantage 0.
/// Throws std::invalid_argument where sizes do not fit, std::domain_error for an R outside [0, 1]
/// with bnpo_beta.
Advantages advantages(const std::vector<RewardColumn>& functions,
                      const std::vector<double>& weights, std::int64_t num_generations,
                      ScaleRewards scale,
                      RewardAggregation aggregation = RewardAggregation::SumThenNormalize);

}  // namespace tailor::trainer
