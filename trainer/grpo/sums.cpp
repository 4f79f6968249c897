#include "trainer/grpo/sums.hpp"

#include <ATen/ops/empty.h>

#include <vector>

namespace tailor::trainer {
namespace {

void reduce(const std::vector<double*>& numbers, distributed::Reduce op, distributed::Group& data) {
  auto packed = at::empty({static_cast<std::int64_t>(numbers.size())}, at::kDouble);
  auto* at = packed.mutable_data_ptr<double>();
  for (std::size_t i = 0; i < numbers.size(); ++i) at[i] = *numbers[i];
  data.all_reduce(packed, op);
  for (std::size_t i = 0; i < numbers.size(); ++i) *numbers[i] = at[i];
}

}  // namespace

void add_over_ranks(UpdateReport& report, distributed::Group& data) {
  if (data.size() == 1) return;
  auto& p = report.policy;
  auto& m = report.mismatch;
  auto tokens = static_cast<double>(report.num_tokens),
       reused = static_cast<double>(report.num_reused);
  reduce({&report.loss,
          &report.entropy,
          &tokens,
          &reused,
          &p.tokens,
          &p.sequences,
          &p.clip_low,
          &p.clip_high,
          &p.num_ratios,
          &p.ratio,
          &p.kl,
          &p.approx_kl,
          &p.num_clamped,
          &p.num_dropped,
          &p.vespo_phi,
          &p.logprob_difference,
          &m.tokens,
          &m.sequences,
          &m.k1,
          &m.k2,
          &m.k3,
          &m.beyond_2,
          &m.ratio,
          &m.ratio_squared,
          &m.difference,
          &m.sequence_ratio_squared,
          &m.perplexity_ratio,
          &m.weights,
          &m.weights_squared},
         distributed::Reduce::Sum, data);
  report.num_tokens = static_cast<std::int64_t>(tokens);
  report.num_reused = static_cast<std::int64_t>(reused);
  p.clip_low_min = -p.clip_low_min;
  reduce({&p.clip_low_min, &p.clip_high_max, &p.ratio_max, &p.logprob_difference_max, &m.ratio_max,
          &m.difference_max},
         distributed::Reduce::Max, data);
  p.clip_low_min = -p.clip_low_min;
}

}  // namespace tailor::trainer
