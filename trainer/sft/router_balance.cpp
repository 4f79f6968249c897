// T tokens of a micro-batch, E experts, K chosen of them.
#include "trainer/sft/router_balance.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/max.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include "trainer/losses/router_losses.hpp"

namespace tailor::trainer {
namespace {

using distributed::Reduce;
using models::RoutingTrace;

std::int64_t real_tokens(const LabelledBatch& batch) {
  return batch.num_tokens() - batch.num_filling;
}

/// Offsets of the documents of the data.
std::vector<std::int64_t> real_offsets(const LabelledBatch& batch) {
  std::vector<std::int64_t> out;
  for (const auto offset : batch.document_offsets)
    if (offset <= real_tokens(batch)) out.push_back(offset);
  return out;
}

/// Forward and cross-entropy of a micro-batch, before its backward.
struct Computed {
  RoutingTrace trace;
  at::Tensor hidden_TD;
};

}  // namespace

RouterBalance::RouterBalance(const RouterTraining& config, models::CausalLM& model,
                             const distributed::Mesh& mesh)
    : config_(config), mesh_(mesh), routers_(models::routers(model)) {
  auto number = at::full({1}, static_cast<double>(routers_.size()), at::kDouble);
  mesh.pp->all_reduce(number, Reduce::Sum);
  num_layers_ = number.item<double>();
}

bool RouterBalance::counts_first() const {
  return config_.router_aux_loss_coef > 0.0 &&
         config_.router_aux_loss_scope == BalanceScope::GlobalBatch;
}

void RouterBalance::begin(std::span<const NumberedBatch> batches) {
  auto sums = at::zeros({2}, at::kDouble);
  auto* sum = sums.mutable_data_ptr<double>();
  for (const auto& item : batches) {
    sum[0] += static_cast<double>(real_tokens(item.batch));
    sum[1] += static_cast<double>(real_offsets(item.batch).size()) - 1.0;
  }
  mesh_.data->all_reduce(sums, Reduce::Sum);
  num_tokens_ = sum[0];
  num_documents_ = sum[1];
  layers_.clear();
  for (const auto& router : routers_) {
    const auto zeros =
        at::zeros({router.config().num_experts},
                  at::TensorOptions(router.router().weight().device()).dtype(at::kDouble));
    layers_.push_back({zeros.clone(), zeros.clone()});
  }
  seq_aux_ = z_ = num_pairs_ = num_dropped_ = 0.0;
}

void RouterBalance::count(const RoutingTrace& trace, const LabelledBatch& batch) {
  const auto num_tokens = real_tokens(batch);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const auto& router = routers_[i];
    const auto& chosen = trace.layers.at(router.block->layer());
    const auto ids_TK = chosen.ids_TK.narrow(0, 0, num_tokens);
    layers_[i].counts_E += expert_counts(ids_TK, router.config().num_experts);
    if (config_.capacity.factor == 0.0) continue;
    const auto kept_TK = chosen.kept_TK.narrow(0, 0, num_tokens);
    num_pairs_ += static_cast<double>(kept_TK.numel());
    num_dropped_ += kept_TK.lt(0).sum().item<double>();
  }
}

void RouterBalance::share_counts() {
  if (layers_.empty()) return;  // of a stage, on all its ranks
  std::vector<at::Tensor> rows;
  for (const auto& layer : layers_) rows.push_back(layer.counts_E);
  auto all = at::stack(rows);
  mesh_.data->all_reduce(all, Reduce::Sum);
  for (std::size_t i = 0; i < layers_.size(); ++i)
    layers_[i].counts_E = all.select(0, static_cast<std::int64_t>(i));
}

at::Tensor RouterBalance::loss(const RoutingTrace& trace, const LabelledBatch& batch) {
  const auto num_tokens = real_tokens(batch);
  if (num_tokens == 0) return {};
  const auto offsets = real_offsets(batch);
  const double token_share = static_cast<double>(num_tokens) / num_tokens_;
  const double document_share = (static_cast<double>(offsets.size()) - 1.0) / num_documents_;
  auto total = at::zeros({}, at::kFloat);
  const auto add = [&](double coefficient, double share, const at::Tensor& value) {
    if (coefficient > 0.0)
      total = total + value * (coefficient * share / (num_layers_ * mesh_.sizes.tp));
    return share * value.item<double>();
  };
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const auto& router = routers_[i];
    const auto score = router.config().score;
    const auto& said = trace.layers.at(router.block->layer());
    const auto logits_TE = said.logits_TE.narrow(0, 0, num_tokens);
    const auto ids_TK = said.ids_TK.narrow(0, 0, num_tokens);
    layers_[i].shares_E += expert_shares(logits_TE.detach(), score).sum(0).to(at::kDouble);
    const bool trains_z = config_.router_z_loss_coef > 0.0;
    z_ += add(config_.router_z_loss_coef, token_share,
              z_loss(trains_z ? logits_TE : logits_TE.detach()));
    if (config_.router_aux_loss_coef > 0.0) {
      const auto counts_E =
          counts_first() ? layers_[i].counts_E : expert_counts(ids_TK, router.config().num_experts);
      add(config_.router_aux_loss_coef, token_share,
          load_balancing_loss(logits_TE, counts_E, score));
    }
    if (config_.router_seq_aux_loss_coef > 0.0)
      seq_aux_ += add(config_.router_seq_aux_loss_coef, document_share,
                      sequence_balancing_loss(logits_TE, ids_TK, offsets, score));
  }
  return total;
}

at::Tensor RouterBalance::traced(const Work& work, const NumberedBatch& item, RoutingTrace& trace,
                                 const Forward& forward) {
  models::Batch batch = item.batch;
  batch.trace = &trace;
  const DropoutScope dropout(
      work.adapter, {.seed = work.seed, .step = work.step, .first_token = item.first_token});
  return forward(batch);
}

LossSums RouterBalance::pass_alone(const Work& work, std::span<const NumberedBatch> batches,
                                   const at::Tensor& share, GradientReduction& reduction) {
  LossSums sums;
  const auto forward = [&](const NumberedBatch& item) {
    Computed out;
    out.hidden_TD = traced(work, item, out.trace, [&](const models::Batch& batch) {
      return work.model.hidden_states(batch);
    });
    return out;
  };
  std::size_t done = 0;
  const auto backward = [&](const NumberedBatch& item, const Computed& computed) {
    done += 1;
    const auto main =
        summed_cross_entropy(work.model, computed.hidden_TD, item.batch.targets_T, work.vocabulary);
    sums += main.sums;
    const auto balance = loss(computed.trace, item.batch);
    const auto scale = share.to(main.loss.device());
    reduction.run(done == batches.size(), [&] {
      if (balance.defined() && balance.requires_grad())
        torch::autograd::backward({main.loss, balance}, {scale, at::Tensor()});
      else
        main.loss.backward(scale);
    });
  };
  auto rest = batches;
  if (counts_first()) {
    // The last one's forward serves for both.
    if (!batches.empty()) rest = batches.first(batches.size() - 1);
    {
      const at::NoGradGuard no_grad;
      for (const auto& item : rest) count(forward(item).trace, item.batch);
    }
    if (batches.empty()) {
      share_counts();
    } else {
      const auto last = forward(batches.back());
      count(last.trace, batches.back().batch);
      share_counts();
      backward(batches.back(), last);
    }
  }
  for (const auto& item : rest) {
    const auto computed = forward(item);
    if (!counts_first()) count(computed.trace, item.batch);
    backward(item, computed);
  }
  reduction.begin_rest();  // before the counts, on a rank without batches too
  if (!counts_first()) share_counts();
  return sums;
}

LossSums RouterBalance::pass_in_stages(const Work& work, std::span<const NumberedBatch> batches,
                                       const at::Tensor& share, GradientReduction& reduction) {
  const auto counting = [&](const NumberedBatch& item, const Forward& forward) {
    RoutingTrace trace;
    StageOutput out{traced(work, item, trace, forward), {}};
    count(trace, item.batch);
    return out;
  };
  const auto learning = [&](const NumberedBatch& item, const Forward& forward) {
    RoutingTrace trace;
    StageOutput out{traced(work, item, trace, forward), {}};
    if (!counts_first()) count(trace, item.batch);
    out.loss = loss(trace, item.batch);
    return out;
  };
  if (counts_first()) {
    pipelined_forward(work.model, batches, mesh_, counting);
    share_counts();
  }
  const auto sums =
      pipelined_pass(work.model, batches, share, mesh_, work.vocabulary, learning, reduction);
  if (!counts_first()) share_counts();
  return sums;
}

StepPass RouterBalance::pass(models::CausalLM& model, peft::LoraAdapter& adapter,
                             std::uint64_t seed, std::int64_t step,
                             const VocabularyPart& vocabulary) {
  const Work work{model, adapter, seed, step, vocabulary};
  return [this, work](std::span<const NumberedBatch> batches, const at::Tensor& share,
                      GradientReduction& reduction) {
    begin(batches);
    return mesh_.sizes.pp > 1 ? pass_in_stages(work, batches, share, reduction)
                              : pass_alone(work, batches, share, reduction);
  };
}

std::vector<Metric> RouterBalance::finish_step() {
  const at::NoGradGuard no_grad;
  auto sums = at::zeros({5}, at::kDouble);  // aux, seq aux, z: sums over layers; pairs, dropped
  auto* sum = sums.mutable_data_ptr<double>();
  auto load = at::zeros({1}, at::kDouble);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const auto& counts_E = layers_[i].counts_E;
    const auto relative_E = counts_E / counts_E.mean();  // E f
    sum[0] += (relative_E * layers_[i].shares_E).sum().item<double>() / num_tokens_;
    load = at::maximum(load, relative_E.max().cpu());
    if (auto bias_E = routers_[i].router().correction_bias();
        bias_E.defined() && config_.router_bias_update_rate > 0.0)
      update_correction_bias_(bias_E, counts_E, config_.router_bias_update_rate);
  }
  sum[1] = seq_aux_;
  sum[2] = z_;
  sum[3] = num_pairs_;
  sum[4] = num_dropped_;
  mesh_.data->all_reduce(sums, Reduce::Sum);
  mesh_.pp->all_reduce(sums, Reduce::Sum);
  mesh_.pp->all_reduce(load, Reduce::Max);
  std::vector<Metric> out{{"aux_loss", sum[0] / num_layers_}, {"z_loss", sum[2] / num_layers_}};
  if (config_.router_seq_aux_loss_coef > 0.0) out.push_back({"seq_aux_loss", sum[1] / num_layers_});
  out.push_back({"router/max_load", load.item<double>()});
  if (config_.capacity.factor > 0.0) out.push_back({"router/dropped", sum[4] / sum[3]});
  return out;
}

}  // namespace tailor::trainer
