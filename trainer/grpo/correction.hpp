#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "trainer/grpo/grpo_config.hpp"

namespace tailor::trainer {

/// What is done about old = ln p of the trainer and sampler = ln p of the sampler that differ
/// though the weights are the same. Tensors are (S), responses by offsets {0, ..., S}, as in
/// PolicyBatch; d = old - sampler, rho = exp(d).

/// Constants for the policy term, (S) of old's dtype and device:
///   token_truncate     clamp(rho, min, max)              (truncated importance sampling)
///   token_mask         rho within [min, max], else 0     (IcePop)
///   sequence_truncate  the same of exp(sum of d over the loss tokens of the response), one value
///   sequence_mask      for all its tokens
/// Off and Bypass, in which the caller takes the sampler's log-probabilities for old: undefined.
/// Auto is none of these: std::invalid_argument.
at::Tensor correction_weights(Correction correction, const std::vector<std::int64_t>& offsets,
                              const at::Tensor& mask_S, const at::Tensor& old_S,
                              const at::Tensor& sampler_S, double clip_max,
                              std::optional<double> clip_min = {});

/// How far the two are apart, as sums over loss tokens and responses: add those of micro-batches
/// and ranks, then ask. Without tokens every answer is 0 (ess: 1).
struct MismatchSums {
  double tokens = 0.0, sequences = 0.0;
  double k1 = 0.0, k2 = 0.0, k3 = 0.0;      // -d, d^2 / 2, exp(d) - 1 - d
  double beyond_2 = 0.0;                    // tokens with max(rho, 1 / rho) > 2
  double ratio = 0.0, ratio_squared = 0.0;  // rho
  double ratio_max = 0.0;
  double difference = 0.0, difference_max = 0.0;  // |d|
  double sequence_ratio_squared = 0.0;            // exp(2 sum of d), the sum within +-20
  double perplexity_ratio = 0.0;                  // exp(mean of -d) of a response
  double weights = 0.0, weights_squared = 0.0;    // of the correction

  MismatchSums& operator+=(const MismatchSums& other);

  double mean_k1() const { return per_token(k1); }  // KL(sampler, trainer), signed
  double mean_k2() const { return per_token(k2); }
  double mean_k3() const { return per_token(k3); }
  double f2() const { return per_token(beyond_2); }
  double mean_ratio() const { return per_token(ratio); }
  double mean_difference() const { return per_token(difference); }
  double chi2_token() const { return tokens > 0 ? ratio_squared / tokens - 1.0 : 0.0; }
  double chi2_sequence() const {
    return sequences > 0 ? sequence_ratio_squared / sequences - 1.0 : 0.0;
  }
  /// Above 1: the trainer is less sure of the tokens than the sampler was.
  double mean_perplexity_ratio() const {
    return sequences > 0 ? perplexity_ratio / sequences : 0.0;
  }
  /// Effective sample size as a share: 1 / mean((w / mean w)^2) over tokens.
  double ess() const {
    return weights_squared > 0 ? weights * weights / (tokens * weights_squared) : 1.0;
  }

 private:
  double per_token(double sum) const { return tokens > 0 ? sum / tokens : 0.0; }
};

/// `weights_S`: correction_weights(); undefined: 1.
MismatchSums mismatch_sums(const std::vector<std::int64_t>& offsets, const at::Tensor& mask_S,
                           const at::Tensor& old_S, const at::Tensor& sampler_S,
                           const at::Tensor& weights_S = {});

}  // namespace tailor::trainer
