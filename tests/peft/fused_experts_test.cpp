#include "peft/fused_experts.hpp"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>

#include <catch2/catch.hpp>

#include "models/files/file_error.hpp"
#include "peft/lora.hpp"

using namespace tailor;
using peft::ExpertFactors;
using peft::ExpertPair;
using peft::FusedPair;

namespace {

const std::string kExperts = "model.layers.0.mlp.experts";

/// gate, up and down of E experts with random factors.
ExpertFactors per_expert(std::int64_t E, std::int64_t h, std::int64_t f, std::int64_t r) {
  ExpertFactors out;
  out.config.r = r;
  for (std::int64_t e = 0; e < E; ++e)
    for (const std::string projection : {"gate_proj", "up_proj", "down_proj"}) {
      const bool down = projection == "down_proj";
      const auto path = kExperts + '.' + std::to_string(e) + '.' + projection;
      out.factors[peft::factor_key(path, 'A')] = at::randn({r, down ? f : h});
      out.factors[peft::factor_key(path, 'B')] = at::randn({down ? h : f, r});
    }
  return out;
}

void check_equal(const ExpertFactors& found, const ExpertFactors& expected) {
  REQUIRE(found.factors.size() == expected.factors.size());
  for (const auto& [key, factor] : expected.factors) {
    CAPTURE(key);
    REQUIRE(found.factors.contains(key));
    CHECK(at::equal(found.factors.at(key), factor));
  }
  for (const auto* projection : {"gate_proj", "up_proj", "down_proj"}) {
    const auto path = kExperts + ".1." + projection;
    CHECK(found.config.rank_of(path) == expected.config.rank_of(path));
    CHECK(found.config.scale_of(path) == Approx(expected.config.scale_of(path)));
  }
}

}  // namespace

TEST_CASE("fused factors: the published layout, and the older one made into it", "[peft]") {
  const auto A = at::tensor({1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0}).view({4, 2}).to(at::kFloat);
  const auto B = (at::arange(1, 13, at::kFloat) / 10).view({3, 4});
  const auto [A_ERI, B_EOR] = peft::unfuse({A, B}, 2);
  const auto delta = 0.5 * B_EOR.matmul(A_ERI);
  const auto expected =
      at::tensor({0.5, 0.7, 1.3, 1.9, 2.1, 3.1, 1.9, 2.2, 4.3, 5.0, 6.7, 7.8}).view({2, 3, 2});
  CHECK(at::allclose(delta, expected.to(at::kFloat)));
  const auto again = peft::fuse({A_ERI, B_EOR});
  CHECK(at::equal(again.A, A));
  CHECK(at::equal(again.B, B));

  const FusedPair old{
      at::tensor({.1, .5, .9, .3, .7, 1.1, .2, .6, 1., .4, .8, 1.2}).view({4, 3}).to(at::kFloat),
      at::tensor({1., 5., 3., 7., 2., 6., 4., 8.}).view({2, 4}).to(at::kFloat)};
  const auto natural = peft::natural_from_swapped(old, 2);
  CHECK(at::allclose(natural.A, A));
  CHECK(at::allclose(natural.B, B));
}

TEST_CASE("experts go into the fused form and come back with the same bits and scales", "[peft]") {
  at::manual_seed(2);
  // Also the widths at which one parameter alone could be read either way.
  const std::int64_t h = 8, f = GENERATE(3, 4, 8);
  const bool rslora = GENERATE(true, false), one_A = GENERATE(true, false);
  auto adapter = per_expert(3, h, f, 2);
  adapter.config.use_rslora = rslora;
  adapter.config.rank_pattern = {{"down_proj", 2.0}};
  adapter.config.alpha_pattern = {{"down_proj", 5.0}};
  if (one_A)
    for (std::int64_t e = 0; e < 3; ++e) {
      const auto path = kExperts + '.' + std::to_string(e);
      adapter.factors[peft::factor_key(path + ".up_proj", 'A')] =
          adapter.factors[peft::factor_key(path + ".gate_proj", 'A')];
    }
  const auto before = adapter;
  peft::fuse_experts(adapter, "file");
  REQUIRE(adapter.factors.size() == 4);
  CHECK(adapter.target_parameters ==
        std::vector<std::string>{kExperts + ".gate_up_proj", kExperts + ".down_proj"});
  const auto rank = adapter.config.rank_of(kExperts + ".gate_up_proj");
  CHECK(rank == (one_A ? 2 : 4));
  const auto& inner = adapter.factors.at(peft::factor_key(kExperts + ".base_layer", 'B'));
  CHECK(inner.sizes() == at::IntArrayRef({2 * f, 3 * rank}));

  const bool swapped = GENERATE(true, false);
  if (swapped) {  // as PEFT up to 0.19.0 wrote it; the exchange is its own inverse
    for (const auto& path : {kExperts + ".base_layer", kExperts}) {
      auto &A = adapter.factors[peft::factor_key(path, 'A')],
           &B = adapter.factors[peft::factor_key(path, 'B')];
      const auto old = peft::natural_from_swapped({A, B}, 3);
      A = old.A;
      B = old.B;
    }
  }
  peft::unfuse_experts(adapter, "", "file");
  check_equal(adapter, before);
}

TEST_CASE("gate and up of different ranks make one pair that computes both", "[peft]") {
  at::manual_seed(2);
  const std::int64_t E = 3, h = 8, f = 5;
  auto adapter = per_expert(E, h, f, 2);
  adapter.config.lora_alpha = 4.0;
  adapter.config.rank_pattern = {{"up_proj", 3.0}};
  std::vector<at::Tensor> expected;
  for (std::int64_t e = 0; e < E; ++e) {
    const auto path = kExperts + '.' + std::to_string(e);
    auto& A = adapter.factors[peft::factor_key(path + ".up_proj", 'A')] = at::randn({3, h});
    auto& B = adapter.factors[peft::factor_key(path + ".up_proj", 'B')] = at::randn({f, 3});
    const auto gate = adapter.factors.at(peft::factor_key(path + ".gate_proj", 'B'))
                          .mm(adapter.factors.at(peft::factor_key(path + ".gate_proj", 'A')));
    expected.push_back(at::cat({gate * 4.0 / 2.0, B.mm(A) * 4.0 / 3.0}));
  }
  peft::fuse_experts(adapter, "file");
  const auto key = kExperts + ".base_layer";
  const auto [A_ERI, B_EOR] = peft::unfuse({adapter.factors.at(peft::factor_key(key, 'A')),
                                            adapter.factors.at(peft::factor_key(key, 'B'))},
                                           E);
  CHECK(adapter.config.rank_of(kExperts + ".gate_up_proj") == 5);
  const auto scale = adapter.config.scale_of(kExperts + ".gate_up_proj");
  CHECK(at::allclose(scale * B_EOR.matmul(A_ERI), at::stack(expected), 1e-5, 1e-6));
}

TEST_CASE("one fused parameter alone is read by the version that wrote it", "[peft]") {
  at::manual_seed(2);
  auto adapter = per_expert(3, 8, 8, 2);
  std::erase_if(adapter.factors, [](const auto& entry) {
    return entry.first.find("down_proj") == std::string::npos;
  });
  const auto before = adapter.factors;
  peft::fuse_experts(adapter, "file");
  auto old = adapter, unknown = adapter;
  const auto swapped = peft::natural_from_swapped({old.factors.at(peft::factor_key(kExperts, 'A')),
                                                   old.factors.at(peft::factor_key(kExperts, 'B'))},
                                                  3);
  old.factors[peft::factor_key(kExperts, 'A')] = swapped.A;
  old.factors[peft::factor_key(kExperts, 'B')] = swapped.B;
  peft::unfuse_experts(adapter, "0.19.1", "file");
  peft::unfuse_experts(old, "0.18.1", "file");
  for (const auto& [key, factor] : before) {
    CHECK(at::equal(adapter.factors.at(key), factor));
    CHECK(at::equal(old.factors.at(key), factor));
  }
  CHECK_THROWS_AS(peft::unfuse_experts(unknown, "", "file"), models::FileError);
}

TEST_CASE("Mixtral's names become those of transformers 5 and come back; half a pair is refused",
          "[peft]") {
  ExpertFactors mixtral;
  mixtral.config.r = 1;
  for (const std::string name : {"w1", "w2", "w3"})
    for (const char factor : {'A', 'B'})
      mixtral
          .factors[peft::factor_key("model.layers.1.block_sparse_moe.experts.0." + name, factor)] =
          factor == 'A' ? at::ones({1, 4}) : at::ones({4, 1});
  auto half = mixtral;
  const auto before = mixtral.factors;
  peft::fuse_experts(mixtral, "file");
  CHECK(mixtral.factors.contains(peft::factor_key("model.layers.1.mlp.experts.base_layer", 'A')));
  peft::unfuse_experts(mixtral, "", "file", peft::expert_names("mixtral"));
  REQUIRE(mixtral.factors.size() == before.size());
  for (const auto& [key, factor] : before) CHECK(mixtral.factors.contains(key));
  CHECK(mixtral.config.rank_of("model.layers.1.block_sparse_moe.experts.0.w3") == 1);
  std::erase_if(half.factors,
                [](const auto& entry) { return entry.first.find("w3") != std::string::npos; });
  CHECK_THROWS_WITH(peft::fuse_experts(half, "file"),
                    "file: model.layers.1.block_sparse_moe.experts: PEFT's fused form adapts gate "
                    "and up together, found one of them");
}

TEST_CASE("patterns mean the weight of a linear layer that target_parameters name", "[peft]") {
  const std::string shared = "model.layers.0.mlp.shared_experts.";
  ExpertFactors adapter;
  adapter.config.r = 2;
  adapter.config.lora_alpha = 4.0;
  adapter.config.rank_pattern = {{"down_proj.weight", 1.0}, {"up_proj", 3.0}};
  adapter.config.alpha_pattern = {{"up_proj.weight", 6.0}};
  adapter.target_parameters = {"shared_experts.down_proj.weight", "shared_experts.up_proj.weight"};
  for (const std::string name : {"down_proj", "up_proj"}) {
    const auto rank = name == "down_proj" ? 1 : 2;
    adapter.factors[peft::factor_key(shared + name, 'A')] = at::ones({rank, 4});
    adapter.factors[peft::factor_key(shared + name, 'B')] = at::ones({4, rank});
  }
  peft::unfuse_experts(adapter, "", "file");
  CHECK(adapter.config.rank_of(shared + "down_proj") == 1);
  CHECK(adapter.config.scale_of(shared + "down_proj") == Approx(4.0));
  CHECK(adapter.config.rank_of(shared + "up_proj") == 2);
  CHECK(adapter.config.scale_of(shared + "up_proj") == Approx(3.0));
  CHECK(adapter.config.rank_of("model.layers.0.mlp.up_proj") == 3);  // among no parameters
}
