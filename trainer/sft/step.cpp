#include "trainer/sft/step.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "trainer/parallel/agree.hpp"
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

/// Nothing to learn from, for a rank that must take part in the others' exchange of rows.
LabelledBatch empty_batch(std::int64_t row_multiple) {
  Example nothing;
  nothing.ids.assign(1, 0);
  nothing.labels.assign(1, kIgnore);
  auto batch = make_batch({&nothing}, row_multiple);
  batch.num_filling = batch.num_tokens();
  return batch;
}

/// The step's micro-batches. One without targets is left out, except where ranks need each other in
/// every forward, for experts or for parts of the base: each then has as many as the one that has
/// most.
std::vector<NumberedBatch> numbered_batches(std::span<const Example* const> documents,
                                            const distributed::Mesh& mesh,
                                            const StepSettings& settings) {
  auto* const lockstep = lockstep_group(mesh);
  std::vector<NumberedBatch> out;
  for (const auto& micro_batch : cut(documents, settings.micro_batch_tokens)) {
    auto batch = make_batch(micro_batch.documents, settings.row_multiple);
    if (batch.num_supervised == 0 && lockstep == nullptr) continue;
    batch.expert_capacity = settings.expert_capacity;
    out.push_back({std::move(batch), settings.first_token + micro_batch.first_token});
  }
  if (lockstep == nullptr) return out;
  const auto number = most_of_ranks(static_cast<std::int64_t>(out.size()), *lockstep);
  while (static_cast<std::int64_t>(out.size()) < number)
    out.push_back({empty_batch(settings.row_multiple), settings.first_token});
  return out;
}

}  // namespace

void fail_step(std::int64_t step, const std::string& what) {
  throw NumericError("step " + std::to_string(step) + ": " + what);
}

void fail_step(std::int64_t step, const std::string& quantity, double value) {
  const char* const found = std::isnan(value) ? "NaN" : value > 0.0 ? "infinite" : "-infinite";
  fail_step(step, quantity + " is " + found);
}

GradientReduction reduction_of(const GradientSync& sync, FlatParameters& trainable) {
  std::vector<at::Tensor> values;
  for (const auto& [name, value] : trainable.parameters()) values.push_back(value);
  return {sync, std::move(values), trainable.gradients()};
}

double apply_gradients(FlatParameters& trainable, AdamW& optimizer, GradientReduction& reduction,
                       const StepSettings& settings) {
  reduction.wait();
  // Every rank holds the same numbers by now, so every rank takes the same branch.
  const double norm = reduction.sync().norm(trainable.gradients());
  if (!std::isfinite(norm)) fail_step(settings.step, "the gradient norm", norm);
  const double scale = settings.max_grad_norm > 0.0
                           ? std::min(1.0, settings.max_grad_norm / (norm + 1e-6))  // as in torch
                           : 1.0;
  optimizer.update(trainable, settings.learning_rate, scale);
  return norm;
}

StepPass one_by_one(BatchLoss batch_loss) {
  return
      [batch_loss = std::move(batch_loss)](std::span<const NumberedBatch> batches,
                                           const at::Tensor& share, GradientReduction& reduction) {
        LossSums sums;
        for (std::size_t i = 0; i < batches.size(); ++i) {
          const auto part = batch_loss(batches[i].batch, batches[i].first_token);
          reduction.run(i + 1 == batches.size(),
                        [&] { part.loss.backward(share.to(part.loss.device())); });
          sums += part.sums;
        }
        return sums;
      };
}

StepPass in_stages(models::CausalLM& model, peft::LoraAdapter& adapter, std::uint64_t seed,
                   std::int64_t step, const distributed::Mesh& mesh,
                   const VocabularyPart& vocabulary) {
  const auto around = [&adapter, seed, step](
                          const NumberedBatch& item,
                          const std::function<at::Tensor(const models::Batch&)>& forward) {
    const DropoutScope dropout(adapter,
                               {.seed = seed, .step = step, .first_token = item.first_token});
    return StageOutput{forward(item.batch), {}};
  };
  return
      [&model, &mesh, vocabulary, around](std::span<const NumberedBatch> batches,
                                          const at::Tensor& share, GradientReduction& reduction) {
        return pipelined_pass(model, batches, share, mesh, vocabulary, around, reduction);
      };
}

StepReport sft_step(const StepPass& pass, FlatParameters& trainable, AdamW& optimizer,
                    std::span<const Example* const> documents, const GradientSync& sync,
                    const StepSettings& settings) {
  trainable.gradients().zero_();

  // One divisor for the step. A mean of per-batch means would weigh a token of a short batch more
  // than a token of a long one.
  const auto counts = count(documents, sync.data());
  if (counts.supervised == 0)
    fail_step(settings.step, "none of its " + std::to_string(counts.tokens) +
                                 " tokens is supervised: there is nothing to learn from");
  const auto share = at::full({}, 1.0 / static_cast<double>(counts.supervised), at::kFloat);

  auto reduction = reduction_of(sync, trainable);
  const auto passed = pass(numbered_batches(documents, sync.mesh(), settings), share, reduction);
  reduction.begin_rest();
  auto sums = at::zeros({2}, at::kDouble);  // loss, correct
  auto* sum = sums.mutable_data_ptr<double>();
  sum[0] = passed.loss;
  sum[1] = static_cast<double>(passed.num_correct);
  sync.data().all_reduce(sums, Reduce::Sum);
  sync.mesh().pp->all_reduce(sums, Reduce::Sum);  // the last stage alone has them

  StepReport report{.loss = sum[0] / static_cast<double>(counts.supervised),
                    .num_tokens = counts.tokens,
                    .num_supervised = counts.supervised,
                    .num_correct = static_cast<std::int64_t>(sum[1])};
  if (!std::isfinite(report.loss)) fail_step(settings.step, "the loss", report.loss);
  report.grad_norm = apply_gradients(trainable, optimizer, reduction, settings);
  return report;
}

BatchLoss adapted_loss(const models::CausalLM& model, peft::LoraAdapter& adapter,
                       std::uint64_t seed, std::int64_t step, const VocabularyPart& vocabulary) {
  return [&model, &adapter, seed, step, vocabulary](const LabelledBatch& batch,
                                                    std::int64_t first_token) {
    const DropoutScope dropout(adapter, {.seed = seed, .step = step, .first_token = first_token});
    return summed_cross_entropy(model, model.hidden_states(batch), batch.targets_T, vocabulary);
  };
}

}  // namespace tailor::trainer
