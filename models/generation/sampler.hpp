#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

namespace tailor::models {

/// The model's logits are NaN or infinite: nothing can be chosen.
class NonFiniteLogits : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Words and meaning of HF's GenerationConfig. The order is HF's: repetition penalty, temperature,
/// top-k, top-p, min-p.
struct SamplingConfig {
  double temperature = 1.0;  // 0: greedy
  std::int64_t top_k = 0;    // 0: off
  double top_p = 1.0, min_p = 0.0;
  double repetition_penalty = 1.0;  // over prompt and completion (arXiv:1909.05858)
  std::uint64_t seed = 42;
};

struct Sampled {
  std::int64_t id;
  float logprob;  // under softmax of the raw logits
  /// Under the distribution that it was drawn from: softmax of the penalised logits divided by the
  /// temperature, over the tokens that the filters and `banned` leave. Greedy: 0.
  float sampling_logprob;
  /// Under softmax of the raw logits divided by the temperature, over all tokens: what a trainer
  /// computes, however the distribution that it was drawn from is bent and cut. Greedy: `logprob`.
  float whole_logprob;
};

/// Chooses the next token. The random number is a function of (seed, sequence, position) alone, so
/// that it does not depend on what else is in the batch. `logits` (V) are used as scratch space;
/// `seen` are the ids of prompt and completion so far, needed for the repetition penalty; `banned`
/// ids cannot be chosen. Throws NonFiniteLogits where logits are NaN or infinite, c10::ValueError
/// where there are none or all are banned.
Sampled sample(std::span<float> logits, std::span<const std::int64_t> seen,
               std::span<const std::int64_t> banned, const SamplingConfig& config,
               std::uint64_t sequence, std::uint64_t position);

}  // namespace tailor::models
