#pragma once

#include <ATen/core/Tensor.h>

#include "distributed/group.hpp"
#include "models/families/causal_lm.hpp"
#include "trainer/data/example.hpp"

namespace tailor::trainer {

/// A packed batch and its targets: targets_T[t] is the id that token t predicts (shifted within its
/// document), kIgnore where none.
struct LabelledBatch : models::Batch {
  at::Tensor targets_T;  // int64
  std::int64_t num_supervised = 0;
  std::int64_t num_filling = 0;  // tokens at the end, of no document of the data
};

/// Row counts that a batch is filled up to. oneDNN, which multiplies bfloat16, compiles and keeps a
/// kernel for every shape it meets: without it a run of ever new token counts spends its time and
/// memory on kernels (10 MB a step, measured on SmolLM2-135M).
constexpr std::int64_t row_multiple(models::kernels::Arithmetic arithmetic) {
  return arithmetic == models::kernels::Arithmetic::BFloat16 ? 64 : 1;
}

/// Documents as one batch, filled up to a multiple of `multiple` tokens by a last document of zeros
/// without targets.
LabelledBatch make_batch(const std::vector<const Example*>& documents, std::int64_t multiple = 1);

struct LossSums {
  double loss = 0.0;             // sum of -log p over supervised tokens, nats
  std::int64_t num_tokens = 0;   // supervised
  std::int64_t num_correct = 0;  // of them, argmax hits

  LossSums& operator+=(const LossSums& other);
};

/// The part of the vocabulary that this rank's head holds, from id `first` on, where the ranks of
/// `group` hold parts; no group: all of it.
struct VocabularyPart {
  distributed::Group* group = nullptr;
  std::int64_t first = 0;
};

/// Cross-entropy of lm_head(hidden) on supervised positions only, in chunks of rows: logits of the
/// whole batch never exist. Where autograd is on, the gradient of the hidden states is computed in
/// the same pass (the head is frozen) and `backward()` of the answered scalar, the sum of losses,
/// hands it on. Softmax in float32. Where ranks hold parts of the vocabulary, every one answers the
/// whole loss and its part of the sum that is the gradient.
struct SummedLoss {
  at::Tensor loss;  // scalar float32 beside the hidden states, sum over supervised tokens
  LossSums sums;
};
SummedLoss summed_cross_entropy(const models::CausalLM& model, const at::Tensor& hidden_TD,
                                const at::Tensor& targets_T, const VocabularyPart& vocabulary = {});
/// The same with whole logits and autograd's rules; for tests.
SummedLoss summed_cross_entropy_reference(const models::CausalLM& model,
                                          const at::Tensor& hidden_TD, const at::Tensor& targets_T);

}  // namespace tailor::trainer
