#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/one_hot.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <catch2/catch.hpp>
#include <cmath>

#include "trainer/losses/router_losses.hpp"

using namespace tailor;
using namespace tailor::trainer;

namespace {

/// Four tokens, four experts, two chosen.
at::Tensor logits() {
  auto z = at::empty({4, 4}, at::kDouble);
  for (int t = 0; t < 4; ++t)
    for (int e = 0; e < 4; ++e) z[t][e] = 1.2 * std::cos(1.1 * (t + 1) * (e + 1)) + 0.3 * e;
  return z;
}

at::Tensor ids(const at::Tensor& z) {
  return models::route(z, {.num_experts = 4, .num_experts_per_tok = 2}).ids_TK;
}

bool near(const at::Tensor& value, double expected) {
  return std::abs(value.item<double>() - expected) < 1e-8;
}

at::Tensor first_row_gradient(const at::Tensor& leaf, const at::Tensor& loss) {
  loss.backward();
  return leaf.grad()[0];
}

/// Of transformers 5: all layers in one, and shares that sum to K.
at::Tensor pooled_loss(const std::vector<at::Tensor>& layers, std::int64_t chosen) {
  const auto p = at::cat(layers).softmax(1);
  const auto picked = std::get<1>(p.topk(chosen, 1));
  const auto mask = at::one_hot(picked, p.size(1)).to(at::kDouble);
  return (mask.mean(0) * p.mean(0).unsqueeze(0)).sum() * p.size(1);
}

}  // namespace

TEST_CASE("load balancing has the published value and gradient", "[trainer]") {
  auto z = logits().requires_grad_();
  const auto chosen = ids(z);
  CHECK(chosen.equal(at::tensor({0, 3, 2, 1, 3, 1, 2, 3}, at::kLong).view({4, 2})));
  const auto counts = expert_counts(chosen, 4);
  CHECK(counts.equal(at::tensor({1, 2, 2, 3}, at::kDouble)));
  const auto loss = load_balancing_loss(z, counts);
  CHECK(near(loss, 1.11026678));
  CHECK(near(load_balancing_loss(z, counts, Score::Sigmoid), 1.06286702));
  CHECK(at::allclose(first_row_gradient(z, loss),
                     at::tensor({-0.04612773, 0.00008656, 0.00007239, 0.04596877}, at::kDouble), 0,
                     1e-8));
}

TEST_CASE("balanced experts give 1 whatever K is", "[trainer]") {
  const std::int64_t chosen = GENERATE(1, 2, 4);
  const auto z = at::zeros({8, 8}, at::kDouble);
  const auto each = at::full({8}, chosen, at::kDouble);
  CHECK(near(load_balancing_loss(z, each), 1.0));
  CHECK(near(load_balancing_loss(z, each, Score::Sigmoid), 1.0));
}

TEST_CASE("sequences are balanced one by one", "[trainer]") {
  const auto z = logits();
  const auto chosen = ids(z);
  CHECK(near(sequence_balancing_loss(z, chosen, {0, 2, 4}), 1.20821624));
  CHECK(near(sequence_balancing_loss(z, chosen, {0, 2, 2, 4}), 1.20821624));
  CHECK(near(sequence_balancing_loss(z, chosen, {0, 4}), 1.11026678));
  CHECK(
      near(sequence_balancing_loss(z.narrow(0, 2, 2), chosen.narrow(0, 2, 2), {0, 2}), 1.41643248));
}

TEST_CASE("the z-loss has the published value and gradient", "[trainer]") {
  auto z = logits().requires_grad_();
  const auto loss = z_loss(z);
  CHECK(near(loss, 4.45999827));
  CHECK(at::allclose(first_row_gradient(z, loss),
                     at::tensor({0.28485359, 0.11010766, 0.09208244, 0.28114218}, at::kDouble), 0,
                     1e-8));
  CHECK(near(z_loss(at::zeros({3, 8}, at::kDouble)), 4.32407713));
}

TEST_CASE("gradients of the losses are their finite differences", "[trainer]") {
  const auto score = GENERATE(Score::Softmax, Score::Sigmoid);
  const auto chosen = ids(logits());  // where nothing changes places the counts are constants
  const auto total = [&](const at::Tensor& z) {
    return 0.7 * load_balancing_loss(z, expert_counts(chosen, 4), score) +
           0.4 * sequence_balancing_loss(z, chosen, {0, 1, 4}, score) + 0.2 * z_loss(z);
  };
  auto z = logits().requires_grad_();
  total(z).backward();
  constexpr double kStep = 1e-5;
  for (int t = 0; t < 4; ++t)
    for (int e = 0; e < 4; ++e) {
      auto above = logits(), below = logits();
      above[t][e] += kStep;
      below[t][e] -= kStep;
      const auto slope = (total(above) - total(below)) / (2.0 * kStep);
      CHECK(near(z.grad()[t][e], slope.item<double>()));
    }
}

TEST_CASE("the bias moves towards experts that are less busy than the mean", "[trainer]") {
  auto bias = at::zeros({4});
  update_correction_bias_(bias, at::tensor({1, 2, 2, 3}, at::kDouble), 1e-3);
  CHECK(bias.equal(at::tensor({1e-3F, 0.0F, 0.0F, -1e-3F})));
}

TEST_CASE("opposite imbalances of two layers do not cancel", "[trainer]") {
  const auto z = logits(), reversed = z.flip({1});
  const auto of = [&](const at::Tensor& x) {
    return load_balancing_loss(x, expert_counts(ids(x), 4));
  };
  CHECK(near(pooled_loss({z}, 2), 2.22053356));
  CHECK(near(pooled_loss({z, reversed}, 2), 2.0));  // pooled, they do
  CHECK(near(2 * (of(z) + of(reversed)) / 2, 2.22053356));
}
