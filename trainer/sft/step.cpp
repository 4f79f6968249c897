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

/// Micro-batches of the rank that has most of them.
std::int64_t most(std::size_t num_batches, distributed::Group& group) {
  auto number = at::full({1}, static_cast<std::int64_t>(num_batches), at::kLong);
  group.all_reduce(number, Reduce::Max);
  return number.const_data_ptr<std::int64_t>()[0];
}

/// Nothing to learn from, for a rank that must take part in the others' exchange of rows.
LabelledBatch empty_batch(std::int64_t row_multiple) {
  Example nothing;
  nothing.ids.assign(1, 0);
  nothing.labels.assign(1, kIgnore);
  return make_batch({&nothing}, row_multiple);
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
                    std::span<const Example* const> documents, const GradientSync& sync,
                    const StepSettings& settings) {
  trainable.gradients().zero_();

  // One divisor for the step. A mean of per-batch means would weigh a token of a short batch more
  // than a token of a long one.
  const auto counts = count(documents, sync.data());
  if (counts.supervised == 0)
    fail(settings.step, "none of its " + std::to_string(counts.tokens) +
                            " tokens is supervised: there is nothing to learn from");
  const auto share = at::full({}, 1.0 / static_cast<double>(counts.supervised), at::kFloat);

  auto sums = at::zeros({2}, at::kDouble);  // loss, correct
  auto* sum = sums.mutable_data_ptr<double>();
  const auto micro_batches = cut(documents, settings.micro_batch_tokens);
  const bool exchanging = sync.mesh().sizes.ep > 1;
  const auto num_batches = exchanging ? most(micro_batches.size(), *sync.mesh().ep)
                                      : static_cast<std::int64_t>(micro_batches.size());
  for (std::int64_t i = 0; i < num_batches; ++i) {
    const bool own = i < static_cast<std::int64_t>(micro_batches.size());
    const auto* micro_batch = own ? &micro_batches[static_cast<std::size_t>(i)] : nullptr;
    const auto batch = own ? make_batch(micro_batch->documents, settings.row_multiple)
                           : empty_batch(settings.row_multiple);
    if (batch.num_supervised == 0 && !exchanging) continue;
    const auto part =
        batch_loss(batch, settings.first_token + (own ? micro_batch->first_token : 0));
    part.loss.backward(share);
    sum[0] += part.sums.loss;
    sum[1] += static_cast<double>(part.sums.num_correct);
  }
  // Once a step, not once a micro-batch.
  sync.reduce(trainable.gradients());
  sync.data().all_reduce(sums, Reduce::Sum);

  // Every rank holds the same numbers by now, so every rank takes the same branch.
  const StepReport report{.loss = sum[0] / static_cast<double>(counts.supervised),
                          .grad_norm = sync.norm(trainable.gradients()),
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
                       std::uint64_t seed, std::int64_t step, const VocabularyPart& vocabulary) {
  return [&model, &adapter, seed, step, vocabulary](const LabelledBatch& batch,
                                                    std::int64_t first_token) {
    const peft::DropoutState dropout{.seed = seed, .step = step, .first_token = first_token};
    const DropoutScope scope(adapter, dropout);
    return summed_cross_entropy(model, model.hidden_states(batch), batch.targets_T, vocabulary);
  };
}

}  // namespace tailor::trainer
