#include "trainer/sft/evaluate.hpp"

#include <ATen/core/grad_mode.h>

#include <cmath>

#include "trainer/sft/micro_batch.hpp"

namespace tailor::trainer {

LossSums evaluate(const models::CausalLM& model, const Dataset& dataset,
                  const std::function<void(std::int64_t, std::int64_t)>& progress) {
  const at::NoGradGuard no_grad;
  std::vector<const Example*> documents;
  documents.reserve(dataset.examples.size());
  for (const auto& example : dataset.examples) documents.push_back(&example);

  LossSums sums;
  std::int64_t done = 0;
  for (const auto& micro_batch : cut(documents, micro_batch_tokens(model.arithmetic()))) {
    const auto batch = make_batch(micro_batch.documents, row_multiple(model.arithmetic()));
    if (batch.num_supervised > 0) {
      const auto part =
          summed_cross_entropy(model, model.hidden_states(batch), batch.targets_T).sums;
      sums.loss += part.loss;
      sums.num_tokens += part.num_tokens;
      sums.num_correct += part.num_correct;
    }
    done += static_cast<std::int64_t>(micro_batch.documents.size());
    if (progress) progress(done, static_cast<std::int64_t>(documents.size()));
  }
  return sums;
}

double mean_loss(const LossSums& sums) { return sums.loss / static_cast<double>(sums.num_tokens); }
double perplexity(const LossSums& sums) { return std::exp(mean_loss(sums)); }
double token_accuracy(const LossSums& sums) {
  return static_cast<double>(sums.num_correct) / static_cast<double>(sums.num_tokens);
}

}  // namespace tailor::trainer
