#include "trainer/sft/step.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "trainer/sft/numeric_error.hpp"

namespace tailor::trainer {
namespace {

using distributed::Reduce;

struct Counts {
  std::int64_t tokens = 0, supervised = 0;
};

Counts count(std::span<const Example* const> documents, distributed::Group& data_parallel) {
  auto sums = at::zeros({2}, at::kLong);
  auto* sum = sums.mutable_data_ptr<std::int64_t>();
  for (const auto* document : documents) {
    sum[0] += static_cast<std::int64_t>(document->ids.size());
    sum[1] += document->num_supervised();
  }
  data_parallel.all_reduce(sums, Reduce::Sum);
  return {.tokens = sum[0], .supervised = sum[1]};
}

[[noreturn]] void fail(std::int64_t step, const std::string& what) {
  throw NumericError("step " + std::to_string(step) + ": " + what);
}

/// Dropout on for one forward.
class DropoutScope {
 public:
  DropoutScope(peft::LoraAdapter& adapter, const peft::DropoutState& state) : adapter_(adapter) {
    adapter_.set_dropout(&state);
  }
  ~DropoutScope() { adapter_.set_dropout(nullptr); }
  DropoutScope(const DropoutScope&) = delete;
  DropoutScope& operator=(const DropoutScope&) = delete;

 private:
  peft::LoraAdapter& adapter_;
};

}  // namespace

StepReport sft_step(const BatchLoss& batch_loss, FlatParameters& trainable, AdamW& optimizer,
                    std::span<const Example* const> documents, distributed::Group& data_parallel,
                    const StepSettings& settings) {
  trainable.gradients().zero_();

  // One divisor for the step. A mean of per-batch means would weigh a token of a short batch more
  // than a token of a long one.
  const auto counts = count(documents, data_parallel);
  if (counts.supervised == 0)
    fail(settings.step, "none of its " + std::to_string(counts.tokens) +
                            " tokens is supervised: there is nothing to learn from");
  const auto share = at::full({}, 1.0 / static_cast<double>(counts.supervised), at::kFloat);

  auto sums = at::zeros({2}, at::kDouble);  // loss, correct
  auto* sum = sums.mutable_data_ptr<double>();
  for (const auto& micro_batch : cut(documents, settings.micro_batch_tokens)) {
    const auto batch = make_batch(micro_batch.documents, settings.row_multiple);
    if (batch.num_supervised == 0) continue;
    const auto part = batch_loss(batch, micro_batch.first_token);
    part.loss.backward(share);
    sum[0] += part.sums.loss;
    sum[1] += static_cast<double>(part.sums.num_correct);
  }
  // Once a step, not once a micro-batch.
  data_parallel.all_reduce(trainable.gradients(), Reduce::Sum);
  data_parallel.all_reduce(sums, Reduce::Sum);

  // Every rank holds the same numbers by now, so every rank takes the same branch.
  const StepReport report{.loss = sum[0] / static_cast<double>(counts.supervised),
                          .grad_norm = l2_norm(trainable.gradients()),
                          .num_tokens = counts.tokens,
                          .num_supervised = counts.supervised,
                          .num_correct = static_cast<std::int64_t>(sum[1])};
  if (!std::isfinite(report.loss))
    fail(settings.step, "the loss is " + std::to_string(report.loss));
  if (!std::isfinite(report.grad_norm))
    fail(settings.step, "the gradient norm is " + std::to_string(report.grad_norm));
  const double scale =
      settings.max_grad_norm > 0.0
          ? std::min(1.0, settings.max_grad_norm / (report.grad_norm + 1e-6))  // 1e-6 as in torch
          : 1.0;
  optimizer.update(trainable, settings.learning_rate, scale);
  return report;
}

BatchLoss adapted_loss(const models::CausalLM& model, peft::LoraAdapter& adapter,
                       std::uint64_t seed, std::int64_t step) {
  return [&model, &adapter, seed, step](const LabelledBatch& batch, std::int64_t first_token) {
    const peft::DropoutState dropout{.seed = seed, .step = step, .first_token = first_token};
    const DropoutScope scope(adapter, dropout);
    return summed_cross_entropy(model, model.hidden_states(batch), batch.targets_T);
  };
}

}  // namespace tailor::trainer
