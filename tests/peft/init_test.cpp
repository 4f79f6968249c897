#include "peft/init.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>

#include <catch2/catch.hpp>
#include <cmath>

using tailor::peft::init_factors;
using tailor::peft::InitLora;
using tailor::peft::InitSite;

namespace {

const InitSite kSite{
    .in = 400, .out = 300, .r = 16, .seed = 7, .path = "model.layers.0.mlp.up_proj"};

/// A uniform distribution over (-bound, bound), by its extremes and its second moment.
bool is_uniform(const at::Tensor& t, double bound) {
  const auto largest = t.abs().max().item<double>();
  const auto square = t.square().mean().item<double>() / (bound * bound / 3.0);
  return largest <= bound && largest > 0.99 * bound && std::abs(square - 1.0) < 0.05;
}

}  // namespace

TEST_CASE("init: true is Kaiming uniform A and zero B", "[peft]") {
  const auto f = init_factors(InitLora::Default, kSite);
  REQUIRE(f.A_RI.sizes() == at::IntArrayRef({16, 400}));
  REQUIRE(f.B_OR.sizes() == at::IntArrayRef({300, 16}));
  CHECK(is_uniform(f.A_RI, 1.0 / std::sqrt(400.0)));
  CHECK(std::abs(f.A_RI.mean().item<double>()) < 2e-3);  // 5 standard errors
  CHECK(f.B_OR.count_nonzero().item<std::int64_t>() == 0);
}

TEST_CASE("init: gaussian has deviation 1/r and zero B", "[peft]") {
  const auto f = init_factors(InitLora::Gaussian, kSite);
  CHECK(f.A_RI.std().item<double>() == Approx(1.0 / 16).epsilon(0.03));
  CHECK(std::abs(f.A_RI.mean().item<double>()) < 5.0 / 16 / 80);
  const auto within = (f.A_RI.abs() < 1.0 / 16).to(at::kDouble).mean().item<double>();
  CHECK(within == Approx(0.6827).margin(0.02));  // a normal distribution's share within one sigma
  CHECK(f.B_OR.count_nonzero().item<std::int64_t>() == 0);
}

TEST_CASE("init: false draws both factors and is no identity", "[peft]") {
  const auto f = init_factors(InitLora::Random, kSite);
  CHECK(is_uniform(f.A_RI, 1.0 / std::sqrt(400.0)));
  CHECK(is_uniform(f.B_OR, 1.0 / std::sqrt(16.0)));
}

TEST_CASE("init: factors are a function of seed and path alone", "[peft]") {
  const auto init = GENERATE(InitLora::Default, InitLora::Gaussian, InitLora::Random);
  const auto f = init_factors(init, kSite);
  auto seed = kSite, path = kSite;
  seed.seed = 8;
  path.path = "model.layers.1.mlp.up_proj";
  CHECK(at::equal(f.A_RI, init_factors(init, kSite).A_RI));
  CHECK_FALSE(at::equal(f.A_RI, init_factors(init, seed).A_RI));
  CHECK_FALSE(at::equal(f.A_RI, init_factors(init, path).A_RI));
}
