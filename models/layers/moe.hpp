#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "models/layers/expert_exchange.hpp"
#include "models/layers/grouped_linear.hpp"
#include "models/layers/linear.hpp"
#include "models/layers/mlp.hpp"
#include "models/layers/route.hpp"

namespace tailor::models {

/// Names of a family's keys below its sparse block.
struct MoeNames {
  std::string gate_proj = "gate_proj", up_proj = "up_proj", down_proj = "down_proj";  // w1, w3, w2
  std::string shared_expert;  // "shared_expert", "shared_experts"; empty: none
};

struct MoeConfig {
  RouterConfig router;
  std::int64_t hidden_size = 0, moe_intermediate_size = 0;
  std::int64_t shared_intermediate_size = 0;  // width of the expert that every token takes; 0: none
  bool shared_expert_gate = false;  // times sigmoid(x g), g (1, D) (Qwen2-MoE); else simply added
  bool correction_bias = false;     // gate.e_score_correction_bias (DeepSeek-V3)
  MoeNames names;
};

/// The router's matrix, "weight" (E, D) and, where the configuration asks,
/// "e_score_correction_bias" (E), both read as float32 whatever the model's weights are. Logits are
/// float32 whatever the activations are. Frozen; whoever trains it puts a tensor of its own into
/// weight() and correction_bias(), and the loaded one back.
class Router final : public Module {
 public:
  Router(std::int64_t hidden_size, std::int64_t num_experts, bool correction_bias);

  at::Tensor forward(const at::Tensor& x_TD) const;  // (T, E) float32
  at::Tensor& weight() { return exact_ED_; }  // float32; gradients flow where it requires them
  at::Tensor& correction_bias() { return bias_E_; }  // float32, undefined where there is none
  const at::Tensor& correction_bias() const { return bias_E_; }
  void finish_loading();

 private:
  at::Tensor stored_ED_, stored_bias_E_, exact_ED_, bias_E_;
};

/// down(silu(gate(x)) up(x)) of every expert, rows sorted by expert.
class Experts final : public Module {
 public:
  explicit Experts(const MoeConfig& config);  // all of them

  at::Tensor forward(const at::Tensor& x_MD, std::span<const std::int64_t> row_offsets) const;
  at::Tensor forward(const DispatchedRows& rows) const;  // part by part
  /// Keeps a range of the experts and of each one part of its width: gate and up by Out, down by
  /// In. Before loading and before adapters are seated.
  void keep(const ExpertRange& experts, std::int64_t width_index = 0, std::int64_t width_count = 1);
  void finish_loading(kernels::Arithmetic arithmetic);

 private:
  MoeConfig config_;
  GroupedLinearSlot gate_proj_, up_proj_, down_proj_;
};

/// A sparse feed-forward block: routed experts and, in some families, one that every token takes.
/// Every (token, expert) pair that the router chose is computed, as far as the batch sets experts
/// no capacity.
class MoeBlock final : public FeedForward {
 public:
  /// `layer` is the block's number, for the trace of routes.
  MoeBlock(const MoeConfig& config, std::int64_t layer);

  at::Tensor forward(const at::Tensor& x_TD, const LayerContext& context) const override;
  void finish_loading(kernels::Arithmetic arithmetic) override;

  const MoeConfig& config() const { return config_; }
  std::int64_t layer() const { return layer_; }
  Router& gate() { return gate_; }
  Experts& experts() { return experts_; }
  /// Who brings rows to experts; the local permutation at first.
  void set_exchange(std::shared_ptr<ExpertExchange> exchange) { exchange_ = std::move(exchange); }

 private:
  MoeConfig config_;
  std::int64_t layer_;
  Router gate_;
  Experts experts_;
  std::unique_ptr<SwiGluMlp> shared_expert_;
  std::unique_ptr<LinearSlot> shared_expert_gate_;
  std::shared_ptr<ExpertExchange> exchange_;
};

}  // namespace tailor::models
