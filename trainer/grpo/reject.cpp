#include "trainer/grpo/reject.hpp"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "trainer/grpo/policy_batch.hpp"

namespace tailor::trainer {
namespace {

enum class Kind { K1, K2, K3 };
enum class Over { Token, Sum, Mean, Max };

struct Statistic {
  Over over;
  Kind kind;
};

/// In the order of RejectBy.
constexpr Statistic kStatistics[] = {
    {Over::Token, Kind::K1}, {Over::Token, Kind::K2}, {Over::Token, Kind::K3},
    {Over::Sum, Kind::K1},   {Over::Sum, Kind::K2},   {Over::Sum, Kind::K3},
    {Over::Mean, Kind::K1},  {Over::Mean, Kind::K2},  {Over::Mean, Kind::K3},
    {Over::Max, Kind::K2},   {Over::Max, Kind::K3}};

/// Of k1 the logarithm, which adds up.
double value(Kind kind, double d) {
  switch (kind) {
    case Kind::K1:
      return d;
    case Kind::K2:
      return d * d / 2;
    case Kind::K3:
      return std::expm1(d) - d;
  }
  return d;
}

bool holds(const RejectRule& rule, Kind kind, double found) {
  if (kind != Kind::K1) return found <= rule.max;
  return found <= std::log(rule.max) && found >= std::log(rule.min.value_or(1.0 / rule.max));
}

class Judge {
 public:
  Judge(const Rows& mask, const Rows& old, const Rows& sampler, double* kept)
      : mask_(mask), old_(old), sampler_(sampler), kept_(kept) {}

  /// Drops what `rule` rejects of the response [begin, end).
  void apply(const RejectRule& rule, std::int64_t begin, std::int64_t end) const {
    const auto [over, kind] = kStatistics[static_cast<std::size_t>(rule.by)];
    double sum = 0.0, most = 0.0, count = 0.0;
    for (auto t = begin; t < end; ++t) {
      if (mask_[t] == 0.0) continue;
      const auto of_token = value(kind, old_[t] - sampler_[t]);
      if (over == Over::Token && !holds(rule, kind, of_token)) kept_[t] = 0.0;
      sum += of_token, count += 1.0;
      most = std::max(most, of_token);
    }
    if (over == Over::Token || count == 0.0) return;
    const auto of_response = over == Over::Sum ? sum : over == Over::Mean ? sum / count : most;
    if (!holds(rule, kind, of_response)) std::fill(kept_ + begin, kept_ + end, 0.0);
  }

 private:
  const Rows &mask_, &old_, &sampler_;
  double* kept_;
};

}  // namespace

at::Tensor kept_mask(const std::vector<RejectRule>& rules, const std::vector<std::int64_t>& offsets,
                     const at::Tensor& mask_S, const at::Tensor& old_S,
                     const at::Tensor& sampler_S) {
  const auto size = offsets.back();
  const Rows mask("mask_S", mask_S, size), old("old_S", old_S, size),
      sampler("sampler_S", sampler_S, size);
  auto kept_S = at::zeros({size}, at::kDouble);
  auto* kept = kept_S.mutable_data_ptr<double>();
  for (std::int64_t t = 0; t < size; ++t) kept[t] = mask[t] != 0.0 ? 1.0 : 0.0;
  const Judge judge(mask, old, sampler, kept);
  for (const auto& rule : rules)
    for (std::size_t i = 0; i + 1 < offsets.size(); ++i)
      judge.apply(rule, offsets[i], offsets[i + 1]);
  return kept_S.to(mask_S.options());
}

}  // namespace tailor::trainer
