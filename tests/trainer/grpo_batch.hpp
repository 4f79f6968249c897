// Two responses of four tokens, the last of which does not count, and how far their
// log-probabilities are from those before the update, of the reference and of the sampler.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <cmath>

#include "trainer/grpo/policy_batch.hpp"
#include "trainer/grpo/policy_loss.hpp"

namespace tailor::trainer {

inline at::Tensor rows(const std::vector<double>& values) {
  return at::tensor(values, at::kDouble);
}

/// sampler_S and reference_S are given, so that a test takes away what it has no use for.
inline PolicyBatch two_responses() {
  PolicyBatch batch{{0, 4, 8}, {1.2, -0.8}};
  batch.mask_S = rows({1, 1, 1, 1, 1, 1, 1, 0});
  batch.old_S = rows({-1, -.5, -2, -.7, -1.5, -.3, -.9, -4});
  batch.logprobs_S = batch.old_S + rows({.3, -.25, .1, 0, 1.3, -.35, .05, 3});
  batch.reference_S = batch.old_S + rows({.05, -.1, .2, 0, -.2, .15, 0, 2});
  batch.sampler_S = batch.old_S - rows({.02, -.03, .8, .01, -.9, .05, .4, -1});
  return batch;
}

/// That batch as a whole optimizer step.
constexpr double kTokens = 7, kSequences = 2, kMaxLength = 8;
constexpr Normalizer kStep{kTokens, kSequences, kMaxLength};

inline bool near(double found, double expected) { return std::abs(found - expected) < 1e-8; }

inline GrpoConfig settings(LossType type) {
  GrpoConfig config;
  config.loss_type = type;
  config.epsilon_high = type == LossType::Cispo ? 5.0 : 0.28;
  return config;
}

inline GrpoConfig sequence_level(LossType type, double low = 0.2, double high = 0.28) {
  auto config = settings(type);
  config.importance_sampling_level = RatioLevel::Sequence;
  config.epsilon = low;
  config.epsilon_high = high;
  return config;
}

}  // namespace tailor::trainer
