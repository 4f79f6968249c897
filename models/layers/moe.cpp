// T tokens, D hidden_size, E experts, K chosen of them, M rows of experts.
#include "models/layers/moe.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>

#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "models/kernels/matvec.hpp"
#include "models/kernels/sigmoid.hpp"
#include "models/layers/drop_tokens.hpp"

namespace tailor::models {
namespace {

std::shared_ptr<GroupedLinearBase> grouped(const std::string& projection, std::int64_t in,
                                           std::int64_t out, const ExpertRange& experts,
                                           const Sharding& sharding = {}) {
  return std::make_shared<GroupedDense>(projection, in, out, experts, sharding);
}

}  // namespace

Router::Router(std::int64_t hidden_size, std::int64_t num_experts, bool correction_bias) {
  add_parameter("weight", {num_experts, hidden_size}, stored_ED_, std::nullopt, at::kFloat);
  if (correction_bias)
    add_parameter("e_score_correction_bias", {num_experts}, stored_bias_E_, std::nullopt,
                  at::kFloat);
}

at::Tensor Router::forward(const at::Tensor& x_TD) const {
  const auto x = x_TD.to(at::kFloat);
  // Decoded tokens, as in linear layers: a token's experts do not depend on those beside it.
  if (!at::GradMode::is_enabled() && kernels::takes_matvec(x)) return kernels::matvec(x, exact_ED_);
  return at::linear(x, exact_ED_);
}

void Router::finish_loading() {
  exact_ED_ = stored_ED_.to(at::kFloat).contiguous();
  if (stored_bias_E_.defined()) bias_E_ = stored_bias_E_.to(at::kFloat);
}

Experts::Experts(const MoeConfig& config)
    : config_(config),
      gate_proj_(config.names.gate_proj,
                 grouped(config.names.gate_proj, config.hidden_size, config.moe_intermediate_size,
                         {0, config.router.num_experts})),
      up_proj_(config.names.up_proj,
               grouped(config.names.up_proj, config.hidden_size, config.moe_intermediate_size,
                       {0, config.router.num_experts})),
      down_proj_(config.names.down_proj,
                 grouped(config.names.down_proj, config.moe_intermediate_size, config.hidden_size,
                         {0, config.router.num_experts})) {
  for (auto* slot : {&gate_proj_, &up_proj_, &down_proj_}) add_child("", *slot);
}

at::Tensor Experts::forward(const at::Tensor& x_MD,
                            std::span<const std::int64_t> row_offsets) const {
  const std::array<GroupedLinearBase*, 2> layers{&gate_proj_.layer(), &up_proj_.layer()};
  std::array<at::Tensor, 2> gate_and_up;
  layers.front()->forward_siblings(x_MD, row_offsets, layers, gate_and_up);
  return down_proj_(swiglu(gate_and_up[0], gate_and_up[1]), row_offsets);
}

void Experts::keep(const ExpertRange& experts, std::int64_t width_index, std::int64_t width_count) {
  using Dim = Sharding::Dim;
  const auto seat = [&](GroupedLinearSlot& slot, std::int64_t in, std::int64_t out, Dim dim) {
    const Sharding part = width_count == 1 ? Sharding{} : Sharding{dim, width_index, width_count};
    slot.rewrap([&](auto) { return grouped(slot.projection(), in, out, experts, part); });
  };
  seat(gate_proj_, config_.hidden_size, config_.moe_intermediate_size, Dim::Out);
  seat(up_proj_, config_.hidden_size, config_.moe_intermediate_size, Dim::Out);
  seat(down_proj_, config_.moe_intermediate_size, config_.hidden_size, Dim::In);
}

void Experts::finish_loading(kernels::Arithmetic arithmetic) {
  for (auto* slot : {&gate_proj_, &up_proj_, &down_proj_}) slot->layer().finish_loading(arithmetic);
}

at::Tensor Experts::forward(const DispatchedRows& rows) const {
  if (rows.parts.size() == 1) return forward(rows.x_MD, rows.parts.front());
  std::vector<at::Tensor> out;
  std::int64_t begin = 0;
  for (const auto& offsets : rows.parts) {
    out.push_back(forward(rows.x_MD.narrow(0, begin, offsets.back()), offsets));
    begin += offsets.back();
  }
  return at::cat(out);
}

MoeBlock::MoeBlock(const MoeConfig& config, std::int64_t layer)
    : config_(config),
      layer_(layer),
      gate_(config.hidden_size, config.router.num_experts, config.correction_bias),
      experts_(config),
      exchange_(make_local_exchange(config.router.num_experts)) {
  check(config.router);
  add_child("gate", gate_);
  add_child("experts", experts_);
  if (config.shared_intermediate_size == 0) return;
  shared_expert_ = std::make_unique<SwiGluMlp>(config.hidden_size, config.shared_intermediate_size,
                                               /*bias=*/false);
  add_child(config.names.shared_expert, *shared_expert_);
  if (!config.shared_expert_gate) return;
  shared_expert_gate_ = std::make_unique<LinearSlot>(dense(config.hidden_size, 1));
  add_child(config.names.shared_expert + "_gate", *shared_expert_gate_);
}

at::Tensor MoeBlock::forward(const at::Tensor& x_TD, const LayerContext& context) const {
  const auto logits_TE = gate_.forward(x_TD);
  const auto routes = route(logits_TE, config_.router, gate_.correction_bias());
  const auto& batch = context.batch;
  const auto kept_TK =
      batch.expert_capacity.factor > 0.0
          ? within_capacity(routes, config_.router, batch.expert_capacity, batch.document_offsets)
          : routes.ids_TK;
  if (batch.trace != nullptr) batch.trace->layers[layer_] = {logits_TE, routes.ids_TK, kept_TK};
  const auto rows = exchange_->dispatch(x_TD, kept_TK);
  const auto out_MD = experts_.forward(rows);
  const auto y_TD = exchange_->combine(out_MD, routes.weights_TK, rows);
  if (!shared_expert_) return y_TD;
  const auto shared_TD = shared_expert_->forward(x_TD);
  if (!shared_expert_gate_) return y_TD + shared_TD;
  return y_TD + kernels::sigmoid((*shared_expert_gate_)(x_TD)) * shared_TD;
}

void MoeBlock::finish_loading(kernels::Arithmetic arithmetic) {
  gate_.finish_loading();
  experts_.finish_loading(arithmetic);
  if (shared_expert_) shared_expert_->finish_loading(arithmetic);
  if (shared_expert_gate_) shared_expert_gate_->layer().finish_loading(arithmetic);
}

}  // namespace tailor::models
