#include "trainer/grpo/correction.hpp"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "trainer/grpo/kl.hpp"
#include "trainer/grpo/policy_batch.hpp"

namespace tailor::trainer {
namespace {

/// A tensor whose rows may all be absent.
std::optional<Rows> rows_if_defined(const char* name, const at::Tensor& tensor_S,
                                    std::int64_t size) {
  if (!tensor_S.defined()) return {};
  return Rows(name, tensor_S, size);
}

double truncated(double ratio, double low, double high) { return std::clamp(ratio, low, high); }
double masked(double ratio, double low, double high) {
  return ratio >= low && ratio <= high ? ratio : 0.0;
}

}  // namespace

at::Tensor correction_weights(Correction correction, const std::vector<std::int64_t>& offsets,
                              const at::Tensor& mask_S, const at::Tensor& old_S,
                              const at::Tensor& sampler_S, double clip_max,
                              std::optional<double> clip_min) {
  if (correction == Correction::Off || correction == Correction::Bypass) return {};
  if (correction == Correction::Auto)
    throw std::invalid_argument("correction_weights: auto, expected what it stands for");
  const auto by_sequence =
      correction == Correction::SequenceTruncate || correction == Correction::SequenceMask;
  const auto truncates =
      correction == Correction::TokenTruncate || correction == Correction::SequenceTruncate;
  const auto low = clip_min.value_or(0.0);
  const auto weight = [&](double log_ratio) {
    const auto ratio = std::exp(log_ratio);
    return truncates ? truncated(ratio, low, clip_max) : masked(ratio, low, clip_max);
  };

  const auto size = offsets.back();
  const Rows mask("mask_S", mask_S, size), old("old_S", old_S, size),
      sampler("sampler_S", sampler_S, size);
  auto weights_S = at::empty({size}, at::kDouble);
  auto* weights = weights_S.mutable_data_ptr<double>();
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
    double sum = 0.0;
    for (auto t = offsets[i]; t < offsets[i + 1]; ++t)
      if (mask[t] != 0.0) sum += old[t] - sampler[t];
    for (auto t = offsets[i]; t < offsets[i + 1]; ++t) {
      if (mask[t] == 0.0)
        weights[t] = 1.0;
      else
        weights[t] = weight(by_sequence ? sum : old[t] - sampler[t]);
    }
  }
  return weights_S.to(old_S.options());
}

MismatchSums& MismatchSums::operator+=(const MismatchSums& other) {
  tokens += other.tokens, sequences += other.sequences;
  k1 += other.k1, k2 += other.k2, k3 += other.k3;
  beyond_2 += other.beyond_2;
  ratio += other.ratio, ratio_squared += other.ratio_squared;
  ratio_max = std::max(ratio_max, other.ratio_max);
  difference += other.difference;
  difference_max = std::max(difference_max, other.difference_max);
  sequence_ratio_squared += other.sequence_ratio_squared;
  perplexity_ratio += other.perplexity_ratio;
  weights += other.weights, weights_squared += other.weights_squared;
  return *this;
}

MismatchSums mismatch_sums(const std::vector<std::int64_t>& offsets, const at::Tensor& mask_S,
                           const at::Tensor& old_S, const at::Tensor& sampler_S,
                           const at::Tensor& weights_S) {
  const auto size = offsets.back();
  const Rows mask("mask_S", mask_S, size), old("old_S", old_S, size),
      sampler("sampler_S", sampler_S, size);
  const auto weights = rows_if_defined("weights_S", weights_S, size);
  MismatchSums sums;
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
    double log_ratio = 0.0, tokens = 0.0;
    for (auto t = offsets[i]; t < offsets[i + 1]; ++t) {
      if (mask[t] == 0.0) continue;
      const auto d = old[t] - sampler[t], ratio = std::exp(d);
      log_ratio += d, tokens += 1.0;
      sums.k1 -= d, sums.k2 += d * d / 2, sums.k3 += std::expm1(d) - d;
      if (std::abs(d) > std::log(2.0)) sums.beyond_2 += 1.0;
      sums.ratio += ratio, sums.ratio_squared += ratio * ratio;
      sums.ratio_max = std::max(sums.ratio_max, ratio);
      sums.difference += std::abs(d);
      sums.difference_max = std::max(sums.difference_max, std::abs(d));
      const auto weight = weights ? (*weights)[t] : 1.0;
      sums.weights += weight, sums.weights_squared += weight * weight;
    }
    if (tokens == 0.0) continue;
    sums.tokens += tokens, sums.sequences += 1.0;
    sums.sequence_ratio_squared +=
        std::exp(2.0 * std::clamp(log_ratio, -kLogRatioLimit, kLogRatioLimit));
    sums.perplexity_ratio += std::exp(-log_ratio / tokens);
  }
  return sums;
}

}  // namespace tailor::trainer
