#include "trainer/sft/evaluate.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "trainer/parallel/agree.hpp"
#include "trainer/parallel/pipeline.hpp"
#include "trainer/sft/micro_batch.hpp"

namespace tailor::trainer {

namespace {

std::vector<MicroBatch> cut_all(const models::CausalLM& model, const Dataset& dataset) {
  std::vector<const Example*> documents;
  documents.reserve(dataset.examples.size());
  for (const auto& example : dataset.examples) documents.push_back(&example);
  return cut(documents, micro_batch_tokens(model.arithmetic(), model.device()));
}

/// Sums over the ranks of `group`, in place.
void add_up(LossSums& sums, distributed::Group& group) {
  if (group.size() == 1) return;
  auto packed = at::zeros({3}, at::kDouble);
  auto* number = packed.mutable_data_ptr<double>();
  number[0] = sums.loss;
  number[1] = static_cast<double>(sums.num_tokens);
  number[2] = static_cast<double>(sums.num_correct);
  group.all_reduce(packed, distributed::Reduce::Sum);
  sums = {.loss = number[0],
          .num_tokens = static_cast<std::int64_t>(number[1]),
          .num_correct = static_cast<std::int64_t>(number[2])};
}

}  // namespace

std::optional<LossSums> evaluate(models::CausalLM& model, const Dataset& dataset,
                                 const distributed::Mesh& mesh, const VocabularyPart& vocabulary,
                                 const std::function<bool(std::int64_t, std::int64_t)>& goes_on) {
  const at::NoGradGuard no_grad;
  const auto micro_batches = cut_all(model, dataset);
  const auto multiple = row_multiple(model.arithmetic());
  const auto ranks = static_cast<std::size_t>(mesh.data->size());
  const auto own = static_cast<std::size_t>(mesh.data->rank());
  LossSums sums;
  std::int64_t done = 0;
  // A last round with fewer micro-batches than ranks is filled with repetitions that do not count:
  // where experts are spread, every rank must join every forward.
  for (std::size_t round = 0; round < micro_batches.size(); round += ranks) {
    const bool counts = round + own < micro_batches.size();
    const auto& micro_batch = micro_batches[counts ? round + own : round];
    const auto batch = make_batch(micro_batch.documents, multiple);
    if (counts || lockstep_group(mesh) != nullptr) {
      const auto part = mesh.sizes.pp > 1 ? pipelined_loss(model, batch, mesh, vocabulary)
                                          : summed_cross_entropy(model, model.hidden_states(batch),
                                                                 batch.targets_T, vocabulary)
                                                .sums;
      if (counts) sums += part;
    }
    for (auto i = round; i < std::min(round + ranks, micro_batches.size()); ++i)
      done += static_cast<std::int64_t>(micro_batches[i].documents.size());
    if (!goes_on(done, static_cast<std::int64_t>(dataset.examples.size()))) return std::nullopt;
  }
  add_up(sums, *mesh.data);
  add_up(sums, *mesh.pp);  // the last stage alone has them
  return sums;
}

LossSums evaluate(models::CausalLM& model, const Dataset& dataset,
                  const std::function<void(std::int64_t, std::int64_t)>& progress) {
  const auto world = distributed::make_single_group();
  const auto tell = [&](std::int64_t done, std::int64_t all) {
    if (progress) progress(done, all);
    return true;
  };
  return *evaluate(model, dataset, distributed::make_mesh(*world, {}), {}, tell);
}

double mean_loss(const LossSums& sums) { return sums.loss / static_cast<double>(sums.num_tokens); }
double perplexity(const LossSums& sums) { return std::exp(mean_loss(sums)); }
double token_accuracy(const LossSums& sums) {
  return static_cast<double>(sums.num_correct) / static_cast<double>(sums.num_tokens);
}

}  // namespace tailor::trainer
