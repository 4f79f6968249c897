// T tokens of a micro-batch as a stage holds them, D hidden_size.
#include "trainer/parallel/pipeline.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "configs/reader.hpp"

namespace tailor::trainer {
namespace {

using distributed::Pending;

/// The neighbours of a stage. Sends are waited for late: two neighbours send to each other at the
/// same time.
class Neighbours {
 public:
  Neighbours(models::CausalLM& model, distributed::Group& pp) : model_(model), pp_(pp) {}
  ~Neighbours() = default;
  Neighbours(const Neighbours&) = delete;
  Neighbours& operator=(const Neighbours&) = delete;

  bool is_first() const { return pp_.rank() == 0; }
  bool is_last() const { return pp_.rank() + 1 == pp_.size(); }

  at::Tensor receive(const LabelledBatch& batch, int from) {
    auto x_TD = at::empty(
        {model_.decoder()->rows_between_stages(batch.num_tokens()), model_.shape().hidden_size},
        at::TensorOptions(model_.device())
            .dtype(models::kernels::activation_dtype(model_.arithmetic())));
    pp_.recv(x_TD, from);
    return x_TD;
  }
  at::Tensor from_previous(const LabelledBatch& batch) { return receive(batch, pp_.rank() - 1); }
  at::Tensor from_next(const LabelledBatch& batch) { return receive(batch, pp_.rank() + 1); }
  void to_previous(const at::Tensor& x_TD) { send(x_TD, pp_.rank() - 1); }
  void to_next(const at::Tensor& x_TD) { send(x_TD, pp_.rank() + 1); }

  void finish() {
    for (auto& [tensor, pending] : sends_) pending.wait();
    sends_.clear();
  }

 private:
  void send(const at::Tensor& x_TD, int to) {
    while (!sends_.empty() && sends_.front().second.ready()) sends_.pop_front();
    auto kept = x_TD.contiguous();
    auto pending = pp_.start_send(kept, to);
    sends_.emplace_back(std::move(kept), std::move(pending));
  }

  models::CausalLM& model_;
  distributed::Group& pp_;
  std::deque<std::pair<at::Tensor, Pending>> sends_;
};

/// A micro-batch between its forward and its backward.
struct InFlight {
  at::Tensor in_TD, out;  // out: the residual stream, or the last stage's loss
  at::Tensor loss;        // of the stage's own, where there is one
};

void back_propagate(const at::Tensor& out, const at::Tensor& gradient, const at::Tensor& loss) {
  if (loss.defined() && loss.requires_grad())
    torch::autograd::backward({out, loss}, {gradient, at::Tensor()});
  else
    out.backward(gradient);
}

}  // namespace

models::Stage stage_of(std::int64_t num_layers, int index, int count) {
  if (count > num_layers)
    throw configs::ConfigError("pipeline_parallel_size " + std::to_string(count) +
                               ": expected at most one stage a layer, the model has " +
                               std::to_string(num_layers));
  return {.begin = num_layers * index / count,
          .end = num_layers * (index + 1) / count,
          .first = index == 0,
          .last = index + 1 == count};
}

LossSums pipelined_pass(models::CausalLM& model, std::span<const NumberedBatch> batches,
                        const at::Tensor& share, const distributed::Mesh& mesh,
                        const VocabularyPart& vocabulary, const AroundForward& around,
                        GradientReduction& reduction) {
  Neighbours neighbours(model, *mesh.pp);
  LossSums sums;
  std::deque<InFlight> in_flight;

  const auto forward = [&](const NumberedBatch& item) {
    InFlight now;
    if (!neighbours.is_first()) now.in_TD = neighbours.from_previous(item.batch).requires_grad_();
    auto computed = around(item, [&](const models::Batch& batch) {
      return model.decoder()->forward_stage(batch, now.in_TD, model.arithmetic());
    });
    now.out = std::move(computed.out_TD);
    now.loss = std::move(computed.loss);
    if (neighbours.is_last()) {
      const auto loss = summed_cross_entropy(model, now.out, item.batch.targets_T, vocabulary);
      sums += loss.sums;
      now.out = loss.loss;
    } else {
      neighbours.to_next(now.out.detach());
    }
    in_flight.push_back(std::move(now));
  };
  std::size_t done = 0;
  const auto backward = [&] {
    const auto& item = batches[done++];
    const auto now = std::move(in_flight.front());
    in_flight.pop_front();
    const auto gradient =
        neighbours.is_last() ? share.to(now.out.device()) : neighbours.from_next(item.batch);
    if (now.out.requires_grad())  // else nothing here is trained
      reduction.run(done == batches.size(), [&] { back_propagate(now.out, gradient, now.loss); });
    if (!neighbours.is_first()) neighbours.to_previous(now.in_TD.grad());
  };

  const auto stages_behind = static_cast<std::size_t>(mesh.pp->size() - 1 - mesh.pp->rank());
  const auto warm_up = std::min(stages_behind, batches.size());
  for (std::size_t i = 0; i < batches.size(); ++i) {
    forward(batches[i]);
    if (i >= warm_up) backward();
  }
  while (done < batches.size()) backward();
  reduction.begin_rest();  // of a stage that trains nothing, or has no batches
  neighbours.finish();
  return sums;
}

void pipelined_forward(models::CausalLM& model, std::span<const NumberedBatch> batches,
                       const distributed::Mesh& mesh, const AroundForward& around) {
  const at::NoGradGuard no_grad;
  Neighbours neighbours(model, *mesh.pp);
  for (const auto& item : batches) {
    const auto in_TD = neighbours.is_first() ? at::Tensor() : neighbours.from_previous(item.batch);
    const auto computed = around(item, [&](const models::Batch& batch) {
      return model.decoder()->forward_stage(batch, in_TD, model.arithmetic());
    });
    if (!neighbours.is_last()) neighbours.to_next(computed.out_TD);
  }
  neighbours.finish();
}

LossSums pipelined_loss(models::CausalLM& model, const LabelledBatch& batch,
                        const distributed::Mesh& mesh, const VocabularyPart& vocabulary) {
  Neighbours neighbours(model, *mesh.pp);
  const auto in_TD = neighbours.is_first() ? at::Tensor() : neighbours.from_previous(batch);
  const auto out_TD = model.decoder()->forward_stage(batch, in_TD, model.arithmetic());
  LossSums sums;
  if (neighbours.is_last())
    sums = summed_cross_entropy(model, out_TD, batch.targets_T, vocabulary).sums;
  else
    neighbours.to_next(out_TD);
  neighbours.finish();
  return sums;
}

}  // namespace tailor::trainer
