#pragma once

#include <memory>
#include <string>
#include <vector>

#include "distributed/group.hpp"
#include "models/files/pretrained.hpp"
#include "peft/lora.hpp"
#include "trainer/grpo/policy.hpp"
#include "trainer/grpo/prompt_source.hpp"

namespace tailor::trainer {

/// A tiny model of tests/golden in float32 with an adapter on every linear layer, alone on one
/// rank, and the prompts of two groups.
struct TinyPolicy {
  explicit TinyPolicy(const std::string& name)
      : model(models::load_causal_lm(models::open_pretrained(TAILOR_GOLDEN "/" + name), at::kFloat,
                                     models::kernels::Arithmetic::Float32)) {
    peft::LoraConfig lora;
    lora.r = 4;
    lora.lora_alpha = 8;
    lora.target_modules = {"all-linear"};
    adapter = std::make_unique<peft::LoraAdapter>(*model, lora, /*seed=*/7);
  }

  Policy policy() const { return {*model, *adapter, config, rows, mesh, {}}; }

  GrpoConfig config;
  std::vector<PromptRow> rows{{{5, 6, 7, 8}, "\"a\"", "{}"}, {{9, 10}, "\"b\"", "{}"}};
  std::unique_ptr<models::CausalLM> model;
  std::unique_ptr<peft::LoraAdapter> adapter;
  std::unique_ptr<distributed::Group> world = distributed::make_single_group();
  distributed::Mesh mesh = distributed::make_mesh(*world, {});
};

}  // namespace tailor::trainer
