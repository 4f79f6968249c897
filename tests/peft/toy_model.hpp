#pragma once

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/randn.h>

#include <memory>
#include <string>
#include <vector>

#include "models/families/causal_lm.hpp"
#include "models/layers/linear.hpp"

namespace tailor::tests {

/// q, k and v of two layers and a head, all from one input of 8 features.
class ToyModel final : public models::CausalLM {
 public:
  struct Block final : models::Module {
    models::LinearSlot q{models::dense(8, 8)}, k{models::dense(8, 4)}, v{models::dense(8, 4, true)};
    Block() {
      add_child("q_proj", q);
      add_child("k_proj", k);
      add_child("v_proj", v);
    }
  };

  ToyModel() {  // not loaded
    for (int i = 0; i < 2; ++i) {
      blocks.push_back(std::make_unique<Block>());
      add_child("model.layers." + std::to_string(i), *blocks.back());
    }
    add_child("lm_head", head);
  }
  explicit ToyModel(at::ScalarType dtype) : ToyModel() {
    at::manual_seed(5);
    for (auto& parameter : parameters()) *parameter.value = at::randn(parameter.shape).to(dtype);
    finish_loading(models::kernels::Arithmetic::Float32);
  }

  at::Tensor run(const at::Tensor& x) const {
    std::vector<at::Tensor> y;
    for (const auto& block : blocks)
      for (const auto& part : models::project(x, block->q, block->k, block->v)) y.push_back(part);
    return at::cat(y, 1);
  }

  const models::ModelShape& shape() const override { return shape_; }
  at::Tensor hidden_states(const models::Batch&) const override { return {}; }
  const models::LinearSlot& lm_head() const override { return head; }
  models::kernels::Arithmetic arithmetic() const override {
    return models::kernels::Arithmetic::Float32;
  }
  void finish_loading(models::kernels::Arithmetic arithmetic) override {
    for (const auto& [name, slot] : slots()) slot->layer().finish_loading(arithmetic);
  }

  std::vector<std::unique_ptr<Block>> blocks;
  models::LinearSlot head{models::dense(8, 6)};

 private:
  models::ModelShape shape_{};
};

}  // namespace tailor::tests
