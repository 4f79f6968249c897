#include "trainer/grpo/facts.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace tailor::trainer {
namespace {

constexpr std::int64_t kHistogramBins = 10;

struct Extent {
  double mean = 0.0, least = 0.0, most = 0.0;
};
Extent extent(const std::vector<double>& values) {
  if (values.empty()) return {};
  const auto [least, most] = std::ranges::minmax(values);
  return {std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size()),
          least, most};
}

void add_lengths(std::vector<Metric>& out, const std::string& name,
                 const std::vector<double>& lengths) {
  const auto [mean, least, most] = extent(lengths);
  out.push_back({"completions/mean_" + name, mean});
  out.push_back({"completions/min_" + name, least});
  out.push_back({"completions/max_" + name, most});
}

/// Counts of the rewards in equal bins between the smallest and the largest; narrow ones where all
/// are the same.
void add_histogram(std::vector<Metric>& out, const RewardColumn& rewards) {
  std::vector<double> values;
  for (const auto& reward : rewards)
    if (reward) values.push_back(*reward);
  if (values.empty()) return;
  const auto [mean, least, most] = extent(values);
  const double width =
      most > least ? (most - least) / kHistogramBins : 1e-3 * std::max(1.0, std::abs(least));
  Histogram histogram{.edges = {}, .counts = std::vector<std::int64_t>(kHistogramBins, 0)};
  for (std::int64_t i = 0; i <= kHistogramBins; ++i)
    histogram.edges.push_back(least + width * static_cast<double>(i));
  for (const double value : values) {
    const auto bin =
        std::min(static_cast<std::int64_t>((value - least) / width), kHistogramBins - 1);
    ++histogram.counts[static_cast<std::size_t>(bin)];
  }
  out.push_back({"reward_histogram", std::move(histogram)});
}

std::int64_t num_unscored(const RewardColumn& scores) {
  return std::ranges::count_if(scores, [](const auto& score) { return !score.has_value(); });
}

double share(double part, double whole) { return whole > 0.0 ? part / whole : 0.0; }

}  // namespace

std::vector<Metric> batch_facts(const GrpoTask& task, const Judgement& judgement,
                                const Advantages& weighed) {
  std::vector<Metric> out{{"reward", weighed.reward.mean},
                          {"reward_std", extent(weighed.group_deviations).mean},
                          {"frac_reward_zero_std", weighed.frac_reward_zero_std}};
  for (std::size_t f = 0; f < task.reward_configs.size(); ++f) {
    const auto name = "rewards/" + task.reward_configs[f].name;
    out.push_back({name + "/mean", weighed.functions[f].mean});
    out.push_back({name + "/std", weighed.functions[f].deviation});
  }
  out.push_back({"num_unscored", num_unscored(weighed.rewards)});
  out.push_back({"num_faulted", judgement.num_faulted});
  add_histogram(out, weighed.rewards);
  add_lengths(out, "length", judgement.lengths);
  std::vector<double> terminated;
  for (std::size_t i = 0; i < judgement.lengths.size(); ++i)
    if (judgement.endings[i] != Ending::Length) terminated.push_back(judgement.lengths[i]);
  add_lengths(out, "terminated_length", terminated);
  const auto add_share = [&](const std::string& name, Ending ending) {
    const auto count = std::ranges::count(judgement.endings, ending);
    out.push_back(
        {name, share(static_cast<double>(count), static_cast<double>(judgement.endings.size()))});
  };
  add_share("completions/clipped_ratio", Ending::Length);
  add_share("completions/eos_token_ratio", Ending::EndToken);
  add_share("completions/stop_string_ratio", Ending::StopString);
  return out;
}

std::vector<Metric> update_facts(const UpdateReport& report, const GrpoConfig& config) {
  const auto& policy = report.policy;
  std::vector<Metric> out{{"entropy", report.entropy}};
  out.push_back({"frac_reused_tokens", share(static_cast<double>(report.num_reused),
                                             static_cast<double>(report.num_tokens))});
  if (config.asks_reference()) out.push_back({"kl", share(policy.kl, policy.tokens)});
  out.push_back({"approx_kl", share(policy.approx_kl, policy.tokens)});
  const double low = share(policy.clip_low, policy.num_ratios),
               high = share(policy.clip_high, policy.num_ratios);
  out.push_back({"clip_ratio/low_mean", low});
  out.push_back({"clip_ratio/low_min", policy.clip_low_min});
  out.push_back({"clip_ratio/high_mean", high});
  out.push_back({"clip_ratio/high_max", policy.clip_high_max});
  out.push_back({"clip_ratio/region_mean", low + high});
  out.push_back({"ratio/mean", share(policy.ratio, policy.num_ratios)});
  out.push_back({"ratio/max", policy.ratio_max});
  out.push_back({"num_clamped_ratios", policy.num_clamped});
  out.push_back({"logprob_difference/max", policy.logprob_difference_max});
  if (config.off_policy_mask_threshold)
    out.push_back({"num_off_policy_sequences", policy.num_dropped});
  if (config.loss_type == LossType::Vespo)
    out.push_back({"vespo/phi_seq_mean", share(policy.vespo_phi, policy.sequences)});
  const auto& mismatch = report.mismatch;
  if (mismatch.tokens == 0.0) return out;
  out.push_back({"mismatch/mean_difference", mismatch.mean_difference()});
  out.push_back({"mismatch/max_difference", mismatch.difference_max});
  out.push_back({"mismatch/k3", mismatch.mean_k3()});
  out.push_back({"mismatch/f2", mismatch.f2()});
  out.push_back({"mismatch/max_ratio", mismatch.ratio_max});
  out.push_back({"mismatch/ppl_ratio", mismatch.mean_perplexity_ratio()});
  out.push_back({"mismatch/ess", mismatch.ess()});
  return out;
}

std::vector<Metric> evaluation_facts(const GrpoTask& task, const Judgement& judgement,
                                     const Advantages& weighed) {
  std::vector<Metric> out{{"eval_reward", weighed.reward.mean},
                          {"eval_reward_std", weighed.reward.deviation}};
  for (std::size_t f = 0; f < task.reward_configs.size(); ++f)
    out.push_back(
        {"eval_rewards/" + task.reward_configs[f].name + "/mean", weighed.functions[f].mean});
  out.push_back({"eval_num_unscored", num_unscored(weighed.rewards)});
  out.push_back({"eval_completions/mean_length", extent(judgement.lengths).mean});
  out.push_back({"eval_num_prompts", static_cast<std::int64_t>(judgement.lengths.size())});
  return out;
}

}  // namespace tailor::trainer
