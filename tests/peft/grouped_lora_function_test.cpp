#include "peft/grouped_lora_function.hpp"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <catch2/catch.hpp>
#include <vector>

#include "models/kernels/tiled_gemm.hpp"

using tailor::models::kernels::Arithmetic;
using tailor::models::kernels::Weight;
using tailor::peft::grouped_lora;
using tailor::peft::grouped_lora_reference;
using tailor::peft::GroupedLoraOperands;

namespace {

struct Siblings {
  std::vector<std::vector<Weight>> weights;
  std::vector<GroupedLoraOperands> layers;
};

struct Shape {
  std::int64_t out, r;
  double scale;
  bool shared_A, shared_B;
};

/// Projections of one input that differ in width, rank, scale and what the experts share.
Siblings make(std::int64_t experts, std::int64_t in, const std::vector<Shape>& shapes,
              Arithmetic arithmetic, at::ScalarType stored, at::ScalarType factors = at::kFloat) {
  Siblings made;
  const auto factor = [&](std::int64_t rows, std::int64_t columns, bool shared) {
    auto tensor =
        shared ? at::randn({rows, columns}, factors) : at::randn({experts, rows, columns}, factors);
    return tensor.requires_grad_();
  };
  for (const auto& shape : shapes) {
    auto& weights = made.weights.emplace_back();
    for (std::int64_t e = 0; e < experts; ++e)
      weights.emplace_back(at::randn({shape.out, in}).to(stored), arithmetic);
  }
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const auto& [out, r, scale, shared_A, shared_B] = shapes[i];
    made.layers.push_back({.weights = made.weights[i],
                           .A = factor(r, in, shared_A),
                           .B = factor(out, r, shared_B),
                           .scale = scale});
  }
  return made;
}

struct TiledPreference {
  explicit TiledPreference(bool prefers)
      : before(tailor::models::kernels::set_prefers_tiled_gemm(prefers)) {}
  ~TiledPreference() { tailor::models::kernels::set_prefers_tiled_gemm(before); }
  bool before;
};

const std::vector<Shape> kMixed{{5, 2, 0.5, false, false},
                                {3, 1, 2.0, true, false},
                                {4, 3, 1.0, false, true},
                                {6, 1, 1.5, false, false}};

/// A scalar that weighs every output differently.
at::Tensor objective(const std::vector<at::Tensor>& y) {
  auto sum = at::zeros({}, at::kDouble);
  for (const auto& part : y) {
    const auto exact = part.to(at::kDouble);
    sum = sum + (exact.sin() + exact.square() * 0.1).sum();
  }
  return sum;
}

using Apply = std::vector<at::Tensor> (*)(const at::Tensor&, std::span<const std::int64_t>,
                                          std::span<const GroupedLoraOperands>);

/// Outputs, then gradients of A and B of each layer, then of x; zeros where there is none.
std::vector<at::Tensor> run(Apply apply, const at::Tensor& x,
                            const std::vector<std::int64_t>& offsets,
                            std::vector<GroupedLoraOperands> layers, bool input_needs,
                            bool all_used) {
  auto input = x.clone().requires_grad_(input_needs);
  for (auto& layer : layers) {
    layer.A = layer.A.detach().clone().requires_grad_();
    layer.B = layer.B.detach().clone().requires_grad_();
  }
  auto y = apply(input, offsets, layers);
  std::vector<at::Tensor> out(y.begin(), y.end());
  if (!all_used) y.erase(y.begin() + 1);
  objective(y).backward();
  for (const auto& layer : layers)
    for (const auto& factor : {layer.A, layer.B})
      out.push_back(factor.grad().defined() ? factor.grad() : at::zeros_like(factor));
  if (input_needs) out.push_back(input.grad());
  for (auto& t : out) t = t.detach().to(at::kDouble);
  return out;
}

double relative_error(const at::Tensor& found, const at::Tensor& exact) {
  return (found - exact).norm().item<double>() / (exact.norm().item<double>() + 1e-30);
}

}  // namespace

TEST_CASE("grouped_lora_reference: gradients equal finite differences", "[peft]") {
  at::manual_seed(0);
  auto made = make(3, 5, kMixed, Arithmetic::Float32, at::kFloat, at::kDouble);
  const std::vector<std::int64_t> offsets{0, 2, 2, 5};  // the second expert has no rows
  auto x = at::randn({5, 5}, at::kDouble).requires_grad_();
  objective(grouped_lora_reference(x, offsets, made.layers)).backward();

  const auto check = [&](at::Tensor input) {  // a handle: writes reach the layers
    const at::NoGradGuard no_grad;
    const auto gradient = input.grad().flatten();
    for (std::int64_t i = 0; i < input.numel(); ++i) {
      auto element = input.view(-1)[i];
      const auto value = element.item<double>();
      const auto at_value = [&](double v) {
        element.fill_(v);
        return objective(grouped_lora_reference(x, offsets, made.layers)).item<double>();
      };
      const double h = 1e-6;  // error of the central difference: h^2 + 1e-16 / h
      const auto expected = (at_value(value + h) - at_value(value - h)) / (2 * h);
      element.fill_(value);
      CHECK(gradient[i].item<double>() == Approx(expected).epsilon(1e-6).margin(1e-7));
    }
  };
  check(x);
  for (auto& layer : made.layers) {
    check(layer.A);
    check(layer.B);
  }
}

TEST_CASE("grouped_lora: equals the reference, whatever asks for a gradient", "[peft]") {
  at::manual_seed(0);
  const bool input_needs = GENERATE(true, false);
  const bool all_used = GENERATE(true, false);
  // Experts without rows at either end and in the middle, with one row, and with several blocks.
  const auto offsets = GENERATE(as<std::vector<std::int64_t>>(), std::vector<std::int64_t>{0, 7},
                                std::vector<std::int64_t>{0, 0, 1, 300, 300, 340, 340},
                                std::vector<std::int64_t>{0, 0, 0, 0});
  const auto arithmetic = GENERATE(Arithmetic::Float32, Arithmetic::BFloat16);
  const auto stored = GENERATE(at::kFloat, at::kBFloat16);
  const std::int64_t in = GENERATE(48, 530);  // below and above the columns of a task; odd lanes
  if (arithmetic == Arithmetic::BFloat16 && stored == at::kFloat) return;
  const bool rounded = arithmetic == Arithmetic::BFloat16;
  CAPTURE(input_needs, all_used, offsets, rounded, c10::toString(stored), in);
  const auto experts = static_cast<std::int64_t>(offsets.size()) - 1;
  const auto made = make(experts, in, kMixed, arithmetic, stored);
  const auto x = at::randn({offsets.back(), in}).to(activation_dtype(arithmetic));

  const auto fast = run(grouped_lora, x, offsets, made.layers, input_needs, all_used);
  const auto exact = run(grouped_lora_reference, x, offsets, made.layers, input_needs, all_used);
  REQUIRE(fast.size() == exact.size());
  for (std::size_t i = 0; i < fast.size(); ++i) {
    CAPTURE(i);
    // The objective's derivative turns the rounding of y into one of dy of the size of y.
    CHECK(relative_error(fast[i], exact[i]) < (rounded ? 5e-2 : 1e-5));
  }
}

TEST_CASE("grouped_lora: passes over rows at rank 1 equal products with a rank of zeros more",
          "[peft]") {
  at::manual_seed(0);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const auto arithmetic = dtype == at::kFloat ? Arithmetic::Float32 : Arithmetic::BFloat16;
  const std::vector<std::int64_t> offsets{0, 150, 150, 171};
  const auto made = make(3, 37, {{29, 1, 0.5, false, false}}, arithmetic, dtype);
  auto wide = made.layers;
  const at::NoGradGuard no_grad;
  wide[0].A = at::cat({made.layers[0].A, at::zeros({3, 1, 37})}, 1);
  wide[0].B = at::cat({made.layers[0].B, at::zeros({3, 29, 1})}, 2).contiguous();
  const auto x = at::randn({171, 37}).to(dtype);
  const at::AutoGradMode with_grad(true);
  const auto thin = run(grouped_lora, x, offsets, made.layers, true, true);
  const auto thick = run(grouped_lora, x, offsets, wide, true, true);
  const double tolerance = dtype == at::kFloat ? 1e-6 : 1e-3;  // of a rounding that falls otherwise
  CHECK(relative_error(thin[0], thick[0]) < tolerance);
  CHECK(relative_error(thin[1], thick[1].narrow(1, 0, 1)) < tolerance);
  CHECK(relative_error(thin[2], thick[2].narrow(2, 0, 1)) < tolerance);
  CHECK(relative_error(thin[3], thick[3]) < tolerance);
}

TEST_CASE("grouped_lora: an expert without rows has a gradient, and it is zero", "[peft]") {
  const auto made = make(3, 6, {{4, 2, 1.0, false, false}}, Arithmetic::Float32, at::kFloat);
  const std::vector<std::int64_t> offsets{0, 3, 3, 5};
  grouped_lora(at::randn({5, 6}), offsets, made.layers).front().sum().backward();
  for (const auto& factor : {made.layers[0].A, made.layers[0].B}) {
    REQUIRE(factor.grad().defined());
    CHECK(at::equal(factor.grad()[1], at::zeros_like(factor[1])));
    CHECK(factor.grad()[0].abs().sum().item<double>() > 0.0);
  }
}

TEST_CASE("grouped_lora: gradients of factors add up in float32 over bfloat16 activations",
          "[peft]") {
  // 4,096 equal rows: a bfloat16 sum of ones stalls at 256.
  const auto r = GENERATE(std::int64_t{1}, std::int64_t{2});
  const std::vector<Weight> weights{Weight(at::zeros({4, 8}, at::kBFloat16), Arithmetic::BFloat16)};
  const GroupedLoraOperands layer{.weights = weights,
                                  .A = at::ones({1, r, 8}).requires_grad_(),
                                  .B = at::ones({1, 4, r}).requires_grad_(),
                                  .scale = 1.0};
  const auto x = at::ones({4096, 8}, at::kBFloat16);
  const std::vector<std::int64_t> offsets{0, 4096};
  grouped_lora(x, offsets, {&layer, 1}).front().sum().backward();
  CHECK(at::equal(layer.A.grad(), at::full({1, r, 8}, 4096.0F * 4)));
  CHECK(at::equal(layer.B.grad(), at::full({1, 4, r}, 4096.0F * 8)));
}

TEST_CASE("grouped_lora: equal bits with one thread and with two", "[peft]") {
  at::manual_seed(3);
  const auto made = make(4, 64, {{40, 4, 1.0, false, false}, {24, 1, 1.0, true, false}},
                         Arithmetic::Float32, at::kFloat);
  const std::vector<std::int64_t> offsets{0, 200, 210, 210, 500};
  const auto x = at::randn({500, 64});
  const auto two = run(grouped_lora, x, offsets, made.layers, true, true);
  const auto threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = run(grouped_lora, x, offsets, made.layers, true, true);
  at::set_num_threads(threads);
  for (std::size_t i = 2; i < one.size() - 1; ++i) CHECK(at::equal(one[i], two[i]));
}

TEST_CASE("grouped_lora: a row of few has the same bits whatever rows stand beside it", "[peft]") {
  at::manual_seed(8);
  const at::NoGradGuard no_grad;
  const auto arithmetic = GENERATE(Arithmetic::Float32, Arithmetic::BFloat16);
  if (arithmetic == Arithmetic::BFloat16 && !tailor::models::kernels::has_bf16_products()) return;
  const TiledPreference preference(GENERATE(false, true));
  const std::int64_t in = 300;
  const std::vector<Shape> shapes{{72, 16, 0.5, false, false}, {40, 1, 2.0, false, false}};
  const auto made = make(2, in, shapes, arithmetic, activation_dtype(arithmetic));
  const auto x = at::randn({64, in}).to(activation_dtype(arithmetic));
  const auto whole = grouped_lora(x, std::vector<std::int64_t>{0, 50, 64}, made.layers);
  for (const std::int64_t rows : {1, 2, 19, 40}) {
    const std::vector<std::int64_t> first_alone{0, rows, rows};
    const auto part = grouped_lora(x.narrow(0, 3, rows), first_alone, made.layers);
    for (std::size_t i = 0; i < shapes.size(); ++i)
      CHECK(at::equal(part[i], whole[i].narrow(0, 3, rows)));
  }
}

TEST_CASE("grouped_lora: operands that do not fit are refused by shape", "[peft]") {
  auto made = make(2, 6, {{4, 2, 1.0, false, false}}, Arithmetic::Float32, at::kFloat);
  const std::vector<std::int64_t> offsets{0, 1, 3};
  CHECK_THROWS_AS(grouped_lora(at::randn({3, 5}), offsets, made.layers), c10::ValueError);
  CHECK_THROWS_AS(grouped_lora(at::randn({4, 6}), offsets, made.layers), c10::ValueError);
  made.layers[0].B = at::randn({2, 4, 3});
  CHECK_THROWS_AS(grouped_lora(at::randn({3, 6}), offsets, made.layers), c10::ValueError);
}
