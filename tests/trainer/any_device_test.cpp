// Forward and backward where tensors have no memory: what would touch the host's, or mix devices,
// fails, as it would on a GPU.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <string>

#include "models/families/causal_lm.hpp"
#include "models/layers/decoder.hpp"
#include "models/prompt_group.hpp"
#include "peft/lora.hpp"
#include "trainer/sft/optimizer.hpp"

using namespace tailor;
using models::kernels::Arithmetic;

namespace {

std::unique_ptr<models::CausalLM> load_without_memory(const std::string& name,
                                                      at::ScalarType dtype) {
  const auto pretrained = models::open_pretrained(std::filesystem::path(TAILOR_GOLDEN) / name);
  auto model = models::make_causal_lm(pretrained.config_json, pretrained.config_file);
  // Behind the embedding: index_select, which that is, has no such form in C++.
  model->keep_stage({.begin = 0, .end = model->shape().num_hidden_layers, .first = false});
  models::load_parameters(*model, pretrained, dtype,
                          dtype == at::kFloat ? Arithmetic::Float32 : Arithmetic::BFloat16, {},
                          at::kMeta);
  return model;
}

/// Two prompts, one with two completions.
models::Batch small_batch() {
  const std::vector<models::PromptGroup> groups{{{1, 2, 3}, {{4, 5}, {6}}}, {{7, 8, 9, 10}, {}}};
  return models::pack_with_prefixes(groups);
}

}  // namespace

TEST_CASE("a step of a dense model needs no host memory but the batch's", "[trainer]") {
  const auto name = GENERATE(as<std::string>(), "tiny_llama", "tiny_qwen2", "tiny_qwen3");
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  CAPTURE(name, c10::toString(dtype));
  const auto model = load_without_memory(name, dtype);
  CHECK(model->device().is_meta());
  peft::LoraConfig config;
  config.r = 4;
  peft::LoraAdapter adapter(*model, config, /*seed=*/1);
  trainer::FlatParameters::Named named;
  for (const auto& trainable : adapter.trainables())
    named.emplace_back(trainable.name, trainable.value);
  trainer::FlatParameters trainable(named);
  trainer::AdamW optimizer(trainable, {.weight_decay = 0.01});
  CHECK(trainable.values().is_meta());

  const auto batch = small_batch();
  const auto x_TD = at::empty({batch.num_tokens(), model->shape().hidden_size},
                              at::TensorOptions(at::kMeta).dtype(dtype));
  const auto hidden_TD = model->decoder()->forward_stage(batch, x_TD, model->arithmetic());
  CHECK(hidden_TD.is_meta());
  CHECK(hidden_TD.scalar_type() == dtype);
  hidden_TD.sum().backward();
  for (const auto& [path, parameter] : trainable.parameters()) {
    CAPTURE(path);
    REQUIRE(parameter.grad().defined());
    CHECK(parameter.grad().is_meta());
    CHECK(parameter.grad().sizes() == parameter.sizes());
  }
  optimizer.update(trainable, 1e-3, 0.5);
  CHECK(optimizer.first_moment().is_meta());
}
