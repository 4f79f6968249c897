#include "peft/lora.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>

#include <catch2/catch.hpp>
#include <set>

#include "tests/peft/toy_model.hpp"

using namespace tailor;
using peft::LoraAdapter;
using peft::LoraConfig;
using tests::ToyModel;

namespace {

void move(LoraAdapter& adapter) {
  const at::NoGradGuard no_grad;
  for (auto& p : adapter.parameters()) p.add_(at::randn(p.sizes()) * 0.1);
}

}  // namespace

TEST_CASE("a fresh adapter leaves the model's function as it was", "[peft]") {
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  ToyModel model(dtype);
  const auto x = at::randn({5, 8});
  const auto before = model.run(x);
  LoraAdapter adapter(model, {.r = 2}, 1);
  CHECK(at::equal(model.run(x), before));
  move(adapter);
  CHECK_FALSE(at::allclose(model.run(x), before, 1e-3, 1e-3));
  adapter.set_enabled(false);
  CHECK(at::equal(model.run(x), before));
}

TEST_CASE("wrapping changes no checkpoint key, and merged weights give the same function",
          "[peft]") {
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  ToyModel model(dtype);
  const auto names = [&] {
    std::vector<std::string> out;
    for (const auto& parameter : model.parameters()) out.push_back(parameter.name);
    return out;
  };
  const auto before = names();
  LoraAdapter adapter(model, {.r = 2, .init_lora_weights = peft::InitLora::Random}, 1);
  CHECK(names() == before);

  const auto x = at::randn({5, 8});
  const auto adapted = model.run(x);
  for (const auto& layer : adapter.layers()) {
    for (const auto& parameter : model.parameters())
      if (parameter.name == layer->path() + ".weight") {
        const auto merged = layer->merged_weight();
        CHECK(merged.scalar_type() == dtype);
        *parameter.value = merged;
      }
  }
  model.finish_loading(models::kernels::Arithmetic::Float32);
  adapter.set_enabled(false);
  CHECK(at::allclose(model.run(x), adapted, 2e-2, dtype == at::kFloat ? 1e-5 : 1e-1));
}

TEST_CASE("siblings in one call equal each on its own, partly adapted or not", "[peft]") {
  const auto targets =
      GENERATE(std::vector<std::string>{"q_proj", "k_proj", "v_proj"},
               std::vector<std::string>{"q_proj", "v_proj"}, std::vector<std::string>{"k_proj"});
  ToyModel model(at::kFloat);
  LoraConfig config{.r = 2, .init_lora_weights = peft::InitLora::Random};
  config.target_modules = targets;
  config.target_is_pattern = false;
  LoraAdapter adapter(model, config, 1);
  const auto x = at::randn({5, 8});
  const auto& block = model.blocks.front();
  const auto y = models::project(x, block->q, block->k, block->v);
  CHECK(at::allclose(y[0], block->q(x), 1e-5, 1e-6));
  CHECK(at::allclose(y[1], block->k(x), 1e-5, 1e-6));
  CHECK(at::allclose(y[2], block->v(x), 1e-5, 1e-6));
}

TEST_CASE("gradients reach every factor and nothing of the base", "[peft]") {
  ToyModel model(at::kFloat);
  LoraAdapter adapter(model, {.r = 2, .init_lora_weights = peft::InitLora::Random}, 1);
  model.run(at::randn({5, 8})).square().sum().backward();
  for (const auto& parameter : adapter.parameters()) {
    REQUIRE(parameter.grad().defined());
    CHECK(parameter.grad().abs().max().item<double>() > 0.0);
  }
  for (const auto& parameter : model.parameters()) CHECK_FALSE(parameter.value->requires_grad());
}

TEST_CASE("dropout acts in training alone and does not depend on micro-batches", "[peft]") {
  ToyModel model(at::kFloat);
  LoraAdapter adapter(
      model, {.r = 2, .lora_dropout = 0.5, .init_lora_weights = peft::InitLora::Random}, 1);
  const auto x = at::randn({6, 8});
  const auto plain = model.run(x);
  peft::DropoutState state{.seed = 3, .step = 4, .first_token = 0};
  adapter.set_dropout(&state);
  const auto whole = model.run(x);
  CHECK_FALSE(at::allclose(whole, plain));
  auto tail = state;
  tail.first_token = 4;
  adapter.set_dropout(&tail);
  CHECK(at::allclose(model.run(x.narrow(0, 4, 2)), whole.narrow(0, 4, 2), 1e-5, 1e-6));
  state.step = 5;
  adapter.set_dropout(&state);
  CHECK_FALSE(at::allclose(model.run(x), whole));
  adapter.set_dropout(nullptr);
  CHECK(at::equal(model.run(x), plain));
}

TEST_CASE("factors depend on seed and path, not on what else is adapted", "[peft]") {
  ToyModel all(at::kFloat), some(at::kFloat), other(at::kFloat);
  LoraConfig config{.r = 2};
  LoraAdapter everywhere(all, config, 1), reseeded(other, config, 2);
  config.target_modules = {"v_proj"};
  config.target_is_pattern = false;
  LoraAdapter v_only(some, config, 1);
  std::size_t found = 0;
  for (const auto& a : v_only.layers())
    for (std::size_t i = 0; i < everywhere.layers().size(); ++i)
      if (everywhere.layers()[i]->path() == a->path()) {
        ++found;
        CHECK(at::equal(everywhere.layers()[i]->A(), a->A()));
        CHECK_FALSE(at::equal(reseeded.layers()[i]->A(), a->A()));
      }
  CHECK(found == 2);
}

TEST_CASE("counts, ranks and scales follow the patterns", "[peft]") {
  ToyModel model(at::kFloat);
  LoraConfig config{.r = 2, .lora_alpha = 6.0};
  config.rank_pattern = {{R"(layers\.1\.q_proj)", 3.0}};
  config.alpha_pattern = {{"v_proj", 1.0}};
  LoraAdapter adapter(model, config, 1);
  const auto counts = adapter.counts();
  REQUIRE(counts.size() == 3);
  CHECK(counts.at("q_proj").layers == 2);
  CHECK(counts.at("q_proj").parameters == 2 * (8 + 8) + 3 * (8 + 8));
  CHECK(counts.at("k_proj").parameters == 2 * 2 * (8 + 4));
  CHECK(adapter.num_parameters() ==
        counts.at("q_proj").parameters + 2 * counts.at("k_proj").parameters);
  for (const auto& layer : adapter.layers()) {
    const double scale = layer->path() == "model.layers.1.q_proj" ? 2.0
                         : layer->path().ends_with("v_proj")      ? 0.5
                                                                  : 3.0;
    CHECK(layer->scale() == scale);
  }
}

TEST_CASE("a rank above the layer's dimensions is refused with place and layer", "[peft]") {
  ToyModel model(at::kFloat);
  const std::string problem = "the rank of model.layers.0.k_proj is 5, above min(in, out) = 4";
  CHECK_THROWS_WITH(LoraAdapter(model, {.r = 5}, 1, "adapter_config.json: target_modules"),
                    "adapter_config.json: r: " + problem);
  LoraConfig config{.r = 5};
  config.places["r"] = "job.yaml:4:3: peft.r";
  ToyModel second(at::kFloat), third(at::kFloat);
  CHECK_THROWS_WITH(LoraAdapter(second, config, 1), "job.yaml:4:3: peft.r: " + problem);
  config.r = 2;
  config.rank_pattern = {{"k_proj", 5.0}};
  CHECK_THROWS_WITH(LoraAdapter(third, config, 1), "peft.rank_pattern: " + problem);
}

TEST_CASE("an adapter can be counted before the model is loaded", "[peft]") {
  ToyModel loaded(at::kFloat), bare;
  LoraAdapter a(loaded, {.r = 2}, 1), b(bare, {.r = 2}, 1);
  CHECK(a.num_parameters() == b.num_parameters());
  CHECK(at::equal(a.parameters()[0], b.parameters()[0]));
}
