#include "trainer/grpo/advantages.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>

namespace tailor::trainer {
namespace {

using Scores = std::span<const std::optional<double>>;

constexpr double kEpsilon = 1e-4;   // TRL's
constexpr double kNoSpread = 1e-8;  // deviations up to here are rounding (TRL: torch.isclose)
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

struct Summary {
  double mean = 0.0, deviation = 0.0;
  double count = 0.0;

  bool has_spread() const { return deviation > kNoSpread; }
  Moments logged() const { return {count > 0 ? mean : kNaN, count > 1 ? deviation : kNaN}; }
};

Summary summarize(Scores scores) {
  Summary out;
  for (const auto& score : scores)
    if (score) out.mean += *score, out.count += 1;
  if (out.count == 0) return out;
  out.mean /= out.count;
  double squares = 0.0;
  for (const auto& score : scores)
    if (score) squares += (*score - out.mean) * (*score - out.mean);
  if (out.count > 1) out.deviation = std::sqrt(squares / (out.count - 1));
  return out;
}

void check(const std::vector<RewardColumn>& functions, const std::vector<double>& weights,
           std::int64_t num_generations) {
  const auto fail = [](const std::string& what) {
    throw std::invalid_argument("advantages: " + what);
  };
  if (functions.empty() || functions.size() != weights.size())
    fail(std::to_string(functions.size()) + " functions and " + std::to_string(weights.size()) +
         " weights; expected one weight a function, and at least one");
  const auto num_samples = functions.front().size();
  for (const auto& column : functions)
    if (column.size() != num_samples)
      fail("functions have " + std::to_string(num_samples) + " and " +
           std::to_string(column.size()) + " samples; expected as many");
  if (num_generations < 1 || num_samples % static_cast<std::size_t>(num_generations) != 0)
    fail(std::to_string(num_samples) + " samples; expected groups of " +
         std::to_string(num_generations));
}

RewardColumn weighted_sums(const std::vector<RewardColumn>& functions,
                           const std::vector<double>& weights) {
  RewardColumn sums(functions.front().size());
  for (std::size_t f = 0; f < functions.size(); ++f)
    for (std::size_t i = 0; i < sums.size(); ++i)
      if (functions[f][i]) sums[i] = sums[i].value_or(0.0) + weights[f] * *functions[f][i];
  return sums;
}

/// 1 / pdf of BNPO's Beta distribution (arXiv:2506.02864).
class BetaScaling {
 public:
  explicit BetaScaling(const RewardColumn& group_means) {
    const auto p = summarize(group_means);
    if (!p.has_spread()) return;
    const auto count = p.mean * (1 - p.mean) / (p.deviation * p.deviation) - 1;
    alpha_ = std::max(1.0, 1 + count * p.mean / 3);
    beta_ = std::max(1.0, 1 + count * (1 - p.mean) / 3);
  }

  double operator()(double p) const {
    const auto log_pdf = std::lgamma(alpha_ + beta_) - std::lgamma(alpha_) - std::lgamma(beta_) +
                         (alpha_ - 1) * std::log(p) + (beta_ - 1) * std::log1p(-p);
    return std::min(std::exp(-log_pdf), 1e6);
  }

 private:
  double alpha_ = 1.0, beta_ = 1.0;
};

BetaScaling beta_scaling(const RewardColumn& rewards, std::size_t group_size) {
  for (const auto& reward : rewards)
    if (reward && !(*reward >= 0.0 && *reward <= 1.0))
      throw std::domain_error(
          "grpo.scale_rewards: bnpo_beta takes weighted rewards from 0 to 1, "
          "found " +
          std::to_string(*reward));
  RewardColumn means;
  for (std::size_t begin = 0; begin < rewards.size(); begin += group_size) {
    const auto group = summarize(Scores(rewards).subspan(begin, group_size));
    means.push_back(group.count > 0 ? std::optional(group.mean) : std::nullopt);
  }
  return BetaScaling(means);
}

/// What a reward's distance from its group's mean is multiplied by.
double scaling(ScaleRewards scale, const Summary& group, const Summary& batch,
               const BetaScaling& beta) {
  switch (scale) {
    case ScaleRewards::Group:
      return 1.0 / (group.deviation + kEpsilon);
    case ScaleRewards::Batch:
      return 1.0 / (batch.deviation + kEpsilon);
    case ScaleRewards::None:
      return 1.0;
    case ScaleRewards::Rloo:
      return group.count > 1 ? group.count / (group.count - 1) : 0.0;
    case ScaleRewards::BnpoBeta:
      return group.has_spread() ? beta(group.mean) : 0.0;  // p of 0 or 1 has no spread
  }
  return 1.0;
}

/// Scores of every group in units of `scale`; 0 in groups without spread, which are told.
RewardColumn centered(const RewardColumn& rewards, std::size_t group_size, ScaleRewards scale,
                      std::vector<bool>& group_has_spread) {
  const auto batch = summarize(rewards);
  const auto beta = scale == ScaleRewards::BnpoBeta ? beta_scaling(rewards, group_size)
                                                    : BetaScaling(RewardColumn());
  RewardColumn out(rewards.size());
  for (std::size_t g = 0; g < group_has_spread.size(); ++g) {
    const auto begin = g * group_size;
    const auto group = summarize(Scores(rewards).subspan(begin, group_size));
    const auto factor = scaling(scale, group, batch, beta);
    for (auto i = begin; i < begin + group_size; ++i)
      if (rewards[i]) out[i] = group.has_spread() ? (*rewards[i] - group.mean) * factor : 0.0;
    if (group.has_spread()) group_has_spread[g] = true;
  }
  return out;
}

RewardColumn whitened_sum(const std::vector<RewardColumn>& functions,
                          const std::vector<double>& weights, std::size_t group_size,
                          std::vector<bool>& group_has_spread) {
  std::vector<RewardColumn> normalized;
  for (const auto& column : functions)
    normalized.push_back(centered(column, group_size, ScaleRewards::Group, group_has_spread));
  auto sums = weighted_sums(normalized, weights);
  const auto batch = summarize(sums);
  for (std::size_t i = 0; i < sums.size(); ++i)
    if (sums[i])
      sums[i] = group_has_spread[i / group_size]
                    ? (*sums[i] - batch.mean) / (batch.deviation + kEpsilon)
                    : 0.0;
  return sums;
}

}  // namespace

Advantages advantages(const std::vector<RewardColumn>& functions,
                      const std::vector<double>& weights, std::int64_t num_generations,
                      ScaleRewards scale, RewardAggregation aggregation) {
  check(functions, weights, num_generations);
  const auto group_size = static_cast<std::size_t>(num_generations);
  const auto num_groups = functions.front().size() / group_size;

  Advantages out;
  out.rewards = weighted_sums(functions, weights);
  out.reward = summarize(out.rewards).logged();
  for (const auto& column : functions) out.functions.push_back(summarize(column).logged());
  out.group_has_spread.assign(num_groups, false);
  const auto values = aggregation == RewardAggregation::NormalizeThenSum
                          ? whitened_sum(functions, weights, group_size, out.group_has_spread)
                          : centered(out.rewards, group_size, scale, out.group_has_spread);
  for (const auto& value : values) out.values.push_back(value.value_or(0.0));

  for (std::size_t g = 0; g < num_groups; ++g) {
    const auto group = Scores(out.rewards).subspan(g * group_size, group_size);
    out.group_deviations.push_back(summarize(group).deviation);
  }
  const auto without = std::count(out.group_has_spread.begin(), out.group_has_spread.end(), false);
  if (num_groups > 0)
    out.frac_reward_zero_std = static_cast<double>(without) / static_cast<double>(num_groups);
  return out;
}

}  // namespace tailor::trainer
