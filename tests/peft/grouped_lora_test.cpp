#include "peft/grouped_lora.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>

#include <catch2/catch.hpp>
#include <set>

#include "peft/lora.hpp"
#include "tests/peft/toy_moe.hpp"

using namespace tailor;
using peft::ExpertLora;
using peft::LoraAdapter;
using peft::LoraConfig;
using tests::ToyMoe;
using Kind = peft::Trainable::Kind;

namespace {

LoraConfig random_factors(ExpertLora layout = ExpertLora::PerExpert) {
  return {.r = 2,
          .lora_alpha = 2.0,
          .init_lora_weights = peft::InitLora::Random,
          .expert_lora = layout};
}

LoraConfig targeting(std::vector<std::string> names) {
  auto config = random_factors();
  config.target_modules = std::move(names);
  config.target_is_pattern = false;
  return config;
}

ExpertLora any_layout() {
  return GENERATE(ExpertLora::PerExpert, ExpertLora::Shared, ExpertLora::SharedOuter);
}

}  // namespace

TEST_CASE("an adapter on experts: nothing at first, the base again when it is off", "[peft]") {
  const auto layout = any_layout();
  ToyMoe model;
  model.load(at::kFloat);
  const auto x = at::randn({6, 8});
  const auto before = model.run(x);
  LoraAdapter adapter(model, {.r = 2, .expert_lora = layout}, 1);
  CHECK(at::equal(model.run(x), before));
  {
    const at::NoGradGuard no_grad;
    for (auto& p : adapter.parameters()) p.add_(at::randn(p.sizes()) * 0.1);
  }
  CHECK_FALSE(at::allclose(model.run(x), before, 1e-3, 1e-3));
  adapter.set_enabled(false);
  CHECK(at::equal(model.run(x), before));
}

TEST_CASE("merged weights of experts give the adapted function under the same keys", "[peft]") {
  const auto layout = any_layout();
  ToyMoe model;
  model.load(at::kFloat);
  const auto names = [&] {
    std::vector<std::string> out;
    for (const auto& parameter : model.parameters()) out.push_back(parameter.name);
    return out;
  };
  const auto before = names();
  LoraAdapter adapter(model, random_factors(layout), 1);
  CHECK(names() == before);
  const auto x = at::randn({6, 8});
  const auto adapted = model.run(x);
  std::map<std::string, at::Tensor> merged;
  for (const auto& layer : adapter.layers())
    merged[layer->path() + ".weight"] = layer->merged_weight();
  for (const auto& layer : adapter.grouped_layers())
    for (std::int64_t e = 0; e < ToyMoe::kExperts; ++e)
      merged[layer->expert_path(e) + ".weight"] = layer->merged_weight(e);
  CHECK(merged.size() == 2 * (1 + 3 * ToyMoe::kExperts));
  for (const auto& parameter : model.parameters())
    if (merged.contains(parameter.name)) *parameter.value = merged.at(parameter.name);
  model.finish_loading(models::kernels::Arithmetic::Float32);
  adapter.set_enabled(false);
  CHECK(at::allclose(model.run(x), adapted, 1e-4, 1e-4));
}

TEST_CASE("gate and up of experts in one call equal each on its own, partly adapted or not",
          "[peft]") {
  const auto targets =
      GENERATE(std::vector<std::string>{"gate_proj", "up_proj"},
               std::vector<std::string>{"up_proj"}, std::vector<std::string>{"gate_proj"});
  ToyMoe model;
  model.load(at::kFloat);
  LoraAdapter adapter(model, targeting(targets), 1);
  const std::vector<std::int64_t> offsets{0, 1, 1, 4, 6};
  const auto& experts = model.layers.front()->mlp.experts;
  const auto x = at::randn({6, 8});
  const std::array<models::GroupedLinearBase*, 2> both{&experts.gate.layer(), &experts.up.layer()};
  std::array<at::Tensor, 2> y;
  both.front()->forward_siblings(x, offsets, both, y);
  CHECK(at::allclose(y[0], experts.gate(x, offsets), 1e-5, 1e-6));
  CHECK(at::allclose(y[1], experts.up(x, offsets), 1e-5, 1e-6));
}

TEST_CASE("experts' factors depend on seed and expert, not on the range or part held", "[peft]") {
  const auto layout = any_layout();
  ToyMoe whole;
  LoraAdapter all(whole, random_factors(layout), 1);
  for (const std::int64_t first : {0, 2})
    for (const std::int64_t part : {0, 1}) {
      ToyMoe some({first, 2}, part, 2);
      LoraAdapter held(some, random_factors(layout), 1);
      REQUIRE(held.grouped_layers().size() == all.grouped_layers().size());
      for (std::size_t i = 0; i < held.grouped_layers().size(); ++i) {
        auto &mine = *held.grouped_layers()[i], &full = *all.grouped_layers()[i];
        const bool down = mine.projection() == "down_proj";
        for (auto e = first; e < first + 2; ++e) {
          const auto A = full.A_of(e), B = full.B_of(e);
          CHECK(at::equal(mine.A_of(e), down ? A.narrow(1, part * 3, 3) : A));
          CHECK(at::equal(mine.B_of(e), down ? B : B.narrow(0, part * 3, 3)));
        }
      }
    }
}

TEST_CASE("trainables: what a caller must know of every tensor", "[peft]") {
  const auto layout = any_layout();
  ToyMoe model({2, 2}, 1, 2);
  const LoraAdapter adapter(model, random_factors(layout), 1);
  const auto found = adapter.trainables();
  const auto parameters = adapter.parameters();
  REQUIRE(found.size() == parameters.size());
  std::set<std::string> names;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const auto& t = found[i];
    CAPTURE(t.name);
    CHECK(t.value.is_same(parameters[i]));
    CHECK(names.insert(t.name).second);
    const bool is_A = t.name.ends_with("lora_A.weight");
    if (t.name.find("experts") == std::string::npos) {
      CHECK(t.kind == Kind::Single);
      CHECK(t.keys == std::vector<std::string>{"base_model.model." + t.name});
      CHECK_FALSE(t.sharded_dim);
      continue;
    }
    const bool down = t.name.find("down_proj") != std::string::npos;
    const bool shared =
        layout == ExpertLora::Shared || (layout == ExpertLora::SharedOuter && is_A != down);
    CHECK(t.kind == (shared ? Kind::SharedByExperts : Kind::PerExpert));
    CHECK(t.value.dim() == (shared ? 2 : 3));
    CHECK(t.experts.first == (shared ? 0 : 2));
    CHECK(t.keys.size() == 2);
    CHECK(t.keys[0].find("experts.2.") != std::string::npos);
    CHECK(t.keys[1].find("experts.3.") != std::string::npos);
    // gate and up by rows: B is cut; down by columns: A is.
    CHECK(t.sharded_dim.has_value() == (is_A == down));
    if (t.sharded_dim) {
      CHECK(t.value.size(*t.sharded_dim) == ToyMoe::kWidth / 2);
      CHECK(t.sharding.index == 1);
    }
  }
}

TEST_CASE("counts of experts are a class of their own and follow the layout", "[peft]") {
  ToyMoe model;
  const auto layout = any_layout();
  const LoraAdapter adapter(model, {.r = 2, .expert_lora = layout}, 1);
  const auto counts = adapter.counts();
  REQUIRE(counts.size() == 4);
  CHECK(counts.at("q_proj").layers == 2);
  CHECK(counts.at("experts.gate_proj").layers == 2 * 4);
  // r (in + out) with E on the factors that experts have alone; two layers, rank 2.
  const std::int64_t E = ToyMoe::kExperts, h = 8, f = 6;
  const auto expected = layout == ExpertLora::PerExpert ? E * (h + f)
                        : layout == ExpertLora::Shared  ? h + f
                                                        : h + E * f;
  for (const auto* name : {"experts.gate_proj", "experts.up_proj", "experts.down_proj"})
    CHECK(counts.at(name).parameters == 2 * 2 * expected);
}

TEST_CASE("gradients reach every expert with rows; the others have zeros", "[peft]") {
  ToyMoe model;
  model.load(at::kFloat);
  LoraAdapter adapter(model, random_factors(), 1);
  model.run(at::randn({6, 8})).square().sum().backward();
  for (const auto& layer : adapter.grouped_layers())
    for (const auto& factor : {layer->A(), layer->B()})
      for (std::int64_t e = 0; e < ToyMoe::kExperts; ++e)
        CHECK((factor.grad()[e].abs().max().item<double>() > 0.0) == (e != 2));
  for (const auto& parameter : model.parameters()) CHECK_FALSE(parameter.value->requires_grad());
}

TEST_CASE("a divided rank: r over the experts of a token, by either rule of scale", "[peft]") {
  struct Case {
    peft::MoeScale rule;
    bool rslora;
    double scale;
  };
  const auto [rule, rslora, scale] = GENERATE(
      Case{peft::MoeScale::KeepS, false, 3.0}, Case{peft::MoeScale::KeepAlpha, false, 6.0},
      Case{peft::MoeScale::KeepS, true, 6.0}, Case{peft::MoeScale::KeepAlpha, true, 8.485});
  ToyMoe model;
  LoraConfig config{.r = 4, .lora_alpha = 12.0, .use_rslora = rslora};
  config.moe_rank = peft::MoeRank::Divide;
  config.moe_scale = rule;
  const LoraAdapter adapter(model, config, 1);
  for (const auto& layer : adapter.grouped_layers()) {
    CHECK(layer->A().size(1) == 2);
    CHECK(layer->scale() == Approx(scale).epsilon(1e-3));
  }
  for (const auto& layer : adapter.layers()) CHECK(layer->A().size(0) == 4);
  // What is written says all: the options are gone.
  CHECK(adapter.config().moe_rank == peft::MoeRank::Same);
  CHECK(adapter.config().rank_of("model.layers.1.mlp.experts.3.up_proj") == 2);

  config.r = 3;
  ToyMoe other;
  CHECK_THROWS_WITH(LoraAdapter(other, config, 1, "job.yaml:4:3: peft.target_modules"),
                    "job.yaml:4:3: peft.moe_rank: divide needs a rank that is a multiple of the "
                    "model's 2 experts per token, found r = 3");
}

TEST_CASE("targets that leave out the experts are told; some experts of a layer are refused",
          "[peft]") {
  ToyMoe model, other, third, fourth;
  CHECK(LoraAdapter(model, targeting({"q_proj"}), 1).experts_left_out());
  CHECK_FALSE(LoraAdapter(other, targeting({"q_proj", "up_proj"}), 1).experts_left_out());
  CHECK_THROWS_WITH(
      LoraAdapter(third, targeting({"experts.0.up_proj", "experts.3.up_proj"}), 1,
                  "target_modules"),
      "target_modules: means 2 of the 4 experts of model.layers.0.mlp.experts (up_proj); expected "
      "all of them or none");
  auto config = random_factors();
  config.rank_pattern = {{R"(experts\.2\.up_proj)", 1.0}};
  CHECK_THROWS_WITH(LoraAdapter(fourth, config, 1, "peft"),
                    "peft: rank_pattern or alpha_pattern tells "
                    "model.layers.0.mlp.experts.2.up_proj apart from "
                    "model.layers.0.mlp.experts.0.up_proj; the experts of a layer have one rank "
                    "and scale");
}

TEST_CASE("dropout on experts and a rank above their dimensions are refused by key", "[peft]") {
  ToyMoe model, other, third;
  auto config = random_factors();
  config.lora_dropout = 0.1;
  CHECK_THROWS_WITH(LoraAdapter(model, config, 1, "peft.target_modules"),
                    "peft.lora_dropout: expected 0 where routed experts are adapted "
                    "(model.layers.0.mlp.experts), as in PEFT; set it to 0 or name the experts in "
                    "exclude_modules");
  config.exclude_modules = {"gate_proj", "up_proj", "down_proj"};
  CHECK_NOTHROW(LoraAdapter(other, config, 1));
  CHECK_THROWS_WITH(
      LoraAdapter(third, {.r = 7}, 1, "peft.target_modules"),
      "peft.r: the rank of model.layers.0.mlp.experts.0.gate_proj is 7, above min(in, "
      "out) = 6");
}
