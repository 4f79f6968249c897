#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "models/families/causal_lm.hpp"
#include "trainer/losses/cross_entropy.hpp"

namespace tailor::trainer {

/// Log-probabilities of given tokens under p = softmax(lm_head(hidden) / temperature), and the
/// entropy of p at each, for losses that are functions of them. Computed in chunks of rows: the
/// logits of a whole batch exist only where they are small (kKeptLogitsBytes), else the backward
/// pass computes them again. Softmax in float32. Nothing here is part of a graph: the caller hands
/// backward()'s answer on to what made `hidden`.
class TokenLogprobs {
 public:
  /// hidden (S, D), the row that predicts targets[s]; targets (S) int64. Where ranks hold parts of
  /// the vocabulary all of them call, with the same rows. `model` outlives this.
  TokenLogprobs(const models::CausalLM& model, at::Tensor hidden_SD, at::Tensor targets_S,
                double temperature, const VocabularyPart& vocabulary = {}, bool keep_logits = true);

  // In host memory, wherever the model is.
  const at::Tensor& logprobs() const { return logprobs_S_; }    // (S) float32
  const at::Tensor& entropies() const { return entropies_S_; }  // (S) float32, nats

  /// Gradient with respect to hidden of sum_s dlogprobs[s] logprobs[s] + dentropies[s]
  /// entropies[s]; `dentropies` may be undefined. With z = logits / temperature:
  ///   d logprob / dz = onehot(target) - p,   d entropy / dz = -p (log p + entropy).
  /// (S, D) in hidden's dtype; this rank's part of the sum where ranks hold parts of the
  /// vocabulary. Once: it uses up the logits that were kept.
  at::Tensor backward(const at::Tensor& dlogprobs_S, const at::Tensor& dentropies_S = {});

 private:
  struct Chunk {
    std::int64_t begin, count;
    at::Tensor logits_CV;  // divided by the temperature, float32; undefined where not kept
    at::Tensor log_sum_C;
  };
  at::Tensor scaled_logits(std::int64_t begin, std::int64_t count) const;
  void measure(Chunk chunk, bool keep);

  const models::kernels::Weight& head_;
  at::Tensor hidden_SD_, targets_S_;
  double temperature_;
  VocabularyPart vocabulary_;
  std::vector<Chunk> chunks_;
  at::Tensor logprobs_S_, entropies_S_;
};

/// Logits kept between forward and backward: computing them again costs about a tenth of a step.
constexpr std::int64_t kKeptLogitsBytes = std::int64_t{512} << 20;

}  // namespace tailor::trainer
