#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "models/layers/route.hpp"

using namespace tailor::models;
using Score = RouterConfig::Score;
using GroupScore = RouterConfig::GroupScore;

namespace {

at::Tensor row(std::vector<double> values) { return at::tensor(values, at::kDouble).unsqueeze(0); }

const at::Tensor kLogits = row({2, 1, 0.5, 0, -0.5, 1.5, -1, 0.25});

RouterConfig config(std::int64_t experts, std::int64_t chosen, Score score, bool norm,
                    double scale = 1.0) {
  return {.num_experts = experts,
          .num_experts_per_tok = chosen,
          .score = score,
          .norm_topk_prob = norm,
          .routed_scaling_factor = scale};
}

RouterConfig grouped(RouterConfig c, GroupScore score) {
  c.n_group = 2;
  c.topk_group = 1;
  c.group_score = score;
  return c;
}

void check_routes(const Routes& routes, const std::vector<std::int64_t>& ids,
                  const std::vector<double>& weights, double tolerance = 2e-8) {
  CHECK(routes.ids_TK.equal(at::tensor(ids).unsqueeze(0)));
  CHECK(at::allclose(routes.weights_TK.to(at::kDouble), row(weights), 0, tolerance));
}

/// d (sum_k c_k w_k) / d z by central differences, the ids fixed.
at::Tensor differences(const at::Tensor& z, const at::Tensor& ids, const at::Tensor& c,
                       const RouterConfig& rule) {
  constexpr double kStep = 1e-5;
  auto out = at::zeros_like(z);
  for (std::int64_t i = 0; i < z.numel(); ++i) {
    auto up = z.clone(), down = z.clone();
    up.view(-1)[i] += kStep;
    down.view(-1)[i] -= kStep;
    const auto slope =
        ((route_weights(up, ids, rule) - route_weights(down, ids, rule)) * c).sum() / (2 * kStep);
    out.view(-1)[i] = slope;
  }
  return out;
}

}  // namespace

TEST_CASE("every family's rule gives the published choice and weights", "[models]") {
  SECTION("Mixtral and Qwen3: softmax over the chosen") {
    check_routes(route(kLogits, config(8, 3, Score::Softmax, true)), {0, 5, 1},
                 {0.50648039, 0.30719589, 0.18632372});
  }
  SECTION("Qwen2-MoE, OLMoE and V2 without groups: softmax over all") {
    check_routes(route(kLogits, config(8, 3, Score::Softmax, false)), {0, 5, 1},
                 {0.37900013, 0.22987520, 0.13942635});
  }
  SECTION("V2: the group with the best expert") {
    const auto rule = grouped(config(8, 3, Score::Softmax, false, 16.0), GroupScore::Max);
    check_routes(route(kLogits, rule), {0, 1, 2}, {6.06400201, 2.23082167, 1.35306174});
  }
  const auto bias = at::tensor({-0.3, 0.1, 0.05, 0.2, 0.0, 0.1, 0.3, 0.1}, at::kDouble);
  SECTION("V3: the group with the best two biased scores, weights without bias") {
    const auto rule = grouped(config(8, 3, Score::Sigmoid, true, 2.5), GroupScore::SumOfBestTwo);
    check_routes(route(kLogits, rule, bias), {5, 7, 6}, {1.23973168, 0.85245814, 0.40781019});
  }
  SECTION("Kimi-K2 and Moonlight: no groups") {
    check_routes(route(kLogits, config(8, 3, Score::Sigmoid, true, 2.827), bias), {5, 1, 3},
                 {1.12820744, 1.00882029, 0.68997227});
    check_routes(route(kLogits, config(8, 3, Score::Sigmoid, true, 2.446), bias), {5, 1, 3},
                 {0.97615684, 0.87285972, 0.59698344});
  }
  SECTION("groups that are out stay out where biased scores are negative") {
    const auto low = at::tensor({-3.0, -3.0, -3.0, -3.0, -4.0, -4.0, -4.0, -4.0}, at::kDouble);
    const auto rule = grouped(config(8, 3, Score::Sigmoid, true), GroupScore::SumOfBestTwo);
    CHECK(route(kLogits, rule, low).ids_TK.equal(at::tensor({0, 1, 2}, at::kLong).unsqueeze(0)));
  }
}

TEST_CASE("of equal scores the lower expert is chosen first", "[models]") {
  const auto rule = config(64, 5, Score::Softmax, true);
  const auto ids = route(at::zeros({3, 64}), rule).ids_TK;
  CHECK(ids.equal(at::arange(5).expand({3, 5})));
  const auto some = route(row({0, 1, 0, 1, 0, 1, 0, 1}), config(8, 6, Score::Softmax, true)).ids_TK;
  CHECK(some.equal(at::tensor({1, 3, 5, 7, 0, 2}, at::kLong).unsqueeze(0)));
  auto groups = grouped(config(8, 2, Score::Softmax, false), GroupScore::Max);
  CHECK(route(at::zeros({1, 8}), groups).ids_TK.equal(at::tensor({0, 1}, at::kLong).unsqueeze(0)));
}

TEST_CASE("the choice is the head of a stable sort, whatever the sizes", "[models]") {
  at::manual_seed(0);
  const std::int64_t experts = GENERATE(1, 3, 8, 64, 384), tokens = GENERATE(0, 1, 700);
  const std::int64_t chosen = std::min<std::int64_t>(experts, GENERATE(1, 2, 8));
  const auto dtype = GENERATE(at::kFloat, at::kDouble);
  const auto z = at::randint(0, 20, {tokens, experts}).to(dtype);  // many ties
  const auto order = std::get<1>(at::sort(z, /*stable=*/true, 1, /*descending=*/true));
  const auto ids = route(z, config(experts, chosen, Score::Softmax, true)).ids_TK;
  CHECK(ids.equal(order.narrow(1, 0, chosen)));
}

TEST_CASE("a token without numbers still has distinct experts", "[models]") {
  const auto z = at::full({2, 8}, std::numeric_limits<double>::quiet_NaN());
  const auto routes = route(z, config(8, 3, Score::Softmax, true));
  CHECK(routes.ids_TK.equal(at::arange(3).expand({2, 3})));
  CHECK(routes.weights_TK.isnan().all().item<bool>());
}

TEST_CASE("weights of replayed experts and their gradient follow the rule", "[models]") {
  const auto z = row({2, 1, 0.5, 0});
  const auto ids = at::tensor({0, 2}, at::kLong).unsqueeze(0);
  const auto loss = row({1, -0.5});
  const auto expect = [&](const RouterConfig& rule, const std::vector<double>& weights,
                          const std::vector<double>& gradient) {
    auto leaf = z.clone().requires_grad_();
    const auto w = route_weights(leaf, ids, rule);
    CHECK(at::allclose(w.detach(), row(weights), 0, 1e-8));
    (w * loss).sum().backward();
    CHECK(at::allclose(leaf.grad(), row(gradient), 0, 1e-8));
  };
  expect(config(4, 2, Score::Softmax, true), {0.81757448, 0.18242552},
         {0.22371968, 0, -0.22371968, 0});
  expect(config(4, 2, Score::Softmax, false), {0.57925853, 0.12925005},
         {0.28115268, -0.10966701, -0.13114143, -0.04034424});
  expect(config(4, 2, Score::Sigmoid, true), {0.58592604, 0.41407396},
         {0.04338093, 0, -0.13739652, 0});
  expect(config(4, 2, Score::Sigmoid, false), {0.88079708, 0.62245933},
         {0.10499359, 0, -0.11750186, 0});
}

TEST_CASE("weights are differentiable in the logits", "[models]") {
  at::manual_seed(0);
  const auto score = GENERATE(Score::Softmax, Score::Sigmoid);
  const bool norm = GENERATE(true, false);
  const auto rule = config(8, 3, score, norm, 2.5);
  auto z = at::randn({5, 8}, at::kDouble).requires_grad_();
  const auto c = at::randn({5, 3}, at::kDouble);
  const auto routes = route(z, rule);
  (routes.weights_TK * c).sum().backward();
  CHECK(at::allclose(z.grad(), differences(z.detach(), routes.ids_TK, c, rule), 0, 1e-8));
  CHECK(routes.weights_TK.equal(route_weights(z, routes.ids_TK, rule)));
}

TEST_CASE("large logits neither overflow nor lose their weights", "[models]") {
  const auto routes =
      route(row({-1000, 990, 1000, -999}).to(at::kFloat), config(4, 2, Score::Softmax, true));
  check_routes(routes, {2, 1}, {1 / (1 + std::exp(-10.0)), 1 / (1 + std::exp(10.0))},
               1e-7);  // float32
  const auto low =
      route(row({-300, -200, -300, -300}).to(at::kFloat), config(4, 2, Score::Softmax, true));
  check_routes(low, {1, 0}, {1, 0});
}

TEST_CASE("sizes that do not fit are refused by the field's name", "[models]") {
  const auto error = [](const RouterConfig& c) {
    try {
      check(c);
    } catch (const c10::ValueError& e) {
      return std::string(e.what_without_backtrace());
    }
    return std::string();
  };
  using Catch::Matchers::Contains;
  auto rule = config(8, 3, Score::Softmax, true);
  CHECK(error(rule).empty());
  CHECK_THAT(error(config(8, 9, Score::Softmax, true)), Contains("num_experts_per_tok"));
  rule.n_group = 3;
  CHECK_THAT(error(rule), Contains("n_group"));
  rule.n_group = 4;
  CHECK_THAT(error(rule), Contains("topk_group") && Contains("2 experts"));
  rule.topk_group = 5;
  CHECK_THAT(error(rule), Contains("topk_group"));
  rule.n_group = rule.topk_group = 8;
  CHECK(error(rule).empty());
  rule.group_score = GroupScore::SumOfBestTwo;
  CHECK_THAT(error(rule), Contains("n_group") && Contains("best two"));
}
