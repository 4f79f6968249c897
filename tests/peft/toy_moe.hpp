#pragma once

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tanh.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "models/families/causal_lm.hpp"
#include "models/layers/grouped_linear.hpp"
#include "models/layers/linear.hpp"

namespace tailor::tests {

/// Two layers of q and of experts (width 6) over 8 features, and a head. Holds a range of the
/// experts and one part of each one's width, as a rank would.
class ToyMoe final : public models::CausalLM {
 public:
  static constexpr std::int64_t kExperts = 4, kFeatures = 8, kWidth = 6;

  struct Experts final : models::Module {
    models::GroupedLinearSlot gate, up, down;
    Experts(models::ExpertRange range, std::int64_t part, std::int64_t parts)
        : gate(seat("gate_proj", kFeatures, kWidth, range, part, parts)),
          up(seat("up_proj", kFeatures, kWidth, range, part, parts)),
          down(seat("down_proj", kWidth, kFeatures, range, part, parts)) {
      for (auto* slot : {&gate, &up, &down}) add_child("", *slot);
    }
    static models::GroupedLinearSlot seat(const std::string& projection, std::int64_t in,
                                          std::int64_t out, models::ExpertRange range,
                                          std::int64_t part, std::int64_t parts) {
      using Dim = models::Sharding::Dim;
      models::Sharding sharding;
      if (parts > 1) sharding = {projection == "down_proj" ? Dim::In : Dim::Out, part, parts};
      return {projection,
              std::make_shared<models::GroupedDense>(projection, in, out, range, sharding)};
    }
  };
  struct Mlp final : models::Module {
    Experts experts;
    Mlp(models::ExpertRange range, std::int64_t part, std::int64_t parts)
        : experts(range, part, parts) {
      add_child("experts", experts);
    }
  };
  struct Layer final : models::Module {
    models::LinearSlot q{models::dense(kFeatures, kFeatures)};
    Mlp mlp;
    Layer(models::ExpertRange range, std::int64_t part, std::int64_t parts)
        : mlp(range, part, parts) {
      add_child("q_proj", q);
      add_child("mlp", mlp);
    }
  };

  explicit ToyMoe(models::ExpertRange range = {0, kExperts}, std::int64_t part = 0,
                  std::int64_t parts = 1) {  // not loaded
    for (int i = 0; i < 2; ++i) {
      layers.push_back(std::make_unique<Layer>(range, part, parts));
      add_child("model.layers." + std::to_string(i), *layers.back());
    }
    add_child("lm_head", head);
    shape_.num_experts = kExperts;
    shape_.num_experts_per_tok = 2;
  }
  void load(at::ScalarType dtype) {
    at::manual_seed(5);
    for (auto& parameter : parameters())
      *parameter.value = (0.3 * at::randn(parameter.shape)).to(dtype);
    finish_loading(models::kernels::Arithmetic::Float32);
  }

  /// Rows 0, 1 go to expert 0, row 2 to 1, none to 2, rows 3 to 5 to 3.
  at::Tensor run(const at::Tensor& x) const {
    static const std::vector<std::int64_t> kOffsets{0, 2, 3, 3, 6};
    auto y = x;
    for (const auto& layer : layers) {
      y = layer->q(y);
      auto& experts = layer->mlp.experts;
      const std::array<models::GroupedLinearBase*, 2> both{&experts.gate.layer(),
                                                           &experts.up.layer()};
      std::array<at::Tensor, 2> parts;
      both.front()->forward_siblings(y, kOffsets, both, parts);
      y = experts.down(at::tanh(parts[0]) * parts[1], kOffsets);
    }
    return y;
  }

  const models::ModelShape& shape() const override { return shape_; }
  at::Tensor hidden_states(const models::Batch&) const override { return {}; }
  const models::LinearSlot& lm_head() const override { return head; }
  models::kernels::Arithmetic arithmetic() const override {
    return models::kernels::Arithmetic::Float32;
  }
  void finish_loading(models::kernels::Arithmetic arithmetic) override {
    for (const auto& [name, slot] : slots()) slot->layer().finish_loading(arithmetic);
    for (const auto& [name, slot] : grouped_slots()) slot->layer().finish_loading(arithmetic);
  }

  std::vector<std::unique_ptr<Layer>> layers;
  models::LinearSlot head{models::dense(kFeatures, 5)};

 private:
  models::ModelShape shape_{};
};

}  // namespace tailor::tests
