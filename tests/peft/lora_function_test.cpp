#include "peft/lora_function.hpp"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <catch2/catch.hpp>
#include <cmath>

using tailor::models::kernels::Arithmetic;
using tailor::models::kernels::Weight;
using tailor::peft::Dropout;
using tailor::peft::lora_linear;
using tailor::peft::lora_linear_reference;
using tailor::peft::LoraOperands;

namespace {

struct Siblings {
  std::vector<Weight> weights;
  std::vector<LoraOperands> layers;
};

/// q, k, v of different widths, ranks and scales; v has a bias.
Siblings make(std::int64_t in, Arithmetic arithmetic, at::ScalarType stored,
              at::ScalarType factors = at::kFloat, double dropout = 0.0) {
  struct Shape {
    std::int64_t out, r;
    double scale;
  };
  const std::vector<Shape> shapes{{5, 2, 0.5}, {3, 1, 2.0}, {4, 3, 1.0}};
  Siblings made;
  for (const auto& shape : shapes)
    made.weights.emplace_back(at::randn({shape.out, in}).to(stored), arithmetic);
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const auto [out, r, scale] = shapes[i];
    made.layers.push_back({.weight = &made.weights[i],
                           .bias_O = std::nullopt,
                           .A_RI = at::randn({r, in}, factors).requires_grad_(),
                           .B_OR = at::randn({out, r}, factors).requires_grad_(),
                           .scale = scale,
                           .dropout = std::nullopt});
    if (dropout > 0.0)
      made.layers.back().dropout = Dropout{.p = dropout, .seed = 1, .stream = i, .first_token = 9};
  }
  made.layers[2].bias_O = at::randn({4}).to(activation_dtype(arithmetic));
  return made;
}

/// A scalar that weighs every output differently.
at::Tensor objective(const std::vector<at::Tensor>& y) {
  auto sum = at::zeros({}, at::kDouble);
  for (const auto& part : y) {
    const auto exact = part.to(at::kDouble);
    sum = sum + (exact.sin() + exact.square() * 0.1).sum();
  }
  return sum;
}

using Apply = std::vector<at::Tensor> (*)(const at::Tensor&, std::span<const LoraOperands>);

/// Outputs, then gradients of A and B of each layer, then of x; zeros where there is none.
std::vector<at::Tensor> run(Apply apply, const at::Tensor& x, std::vector<LoraOperands> layers,
                            bool input_needs, bool all_used) {
  auto input = x.clone().requires_grad_(input_needs);
  for (auto& layer : layers) {
    layer.A_RI = layer.A_RI.detach().clone().requires_grad_();
    layer.B_OR = layer.B_OR.detach().clone().requires_grad_();
  }
  auto y = apply(input, layers);
  std::vector<at::Tensor> out(y.begin(), y.end());
  if (!all_used) y.erase(y.begin() + 1);
  objective(y).backward();
  for (const auto& layer : layers)
    for (const auto& factor : {layer.A_RI, layer.B_OR})
      out.push_back(factor.grad().defined() ? factor.grad() : at::zeros_like(factor));
  if (input_needs) out.push_back(input.grad());
  for (auto& t : out) t = t.detach().to(at::kDouble);
  return out;
}

double relative_error(const at::Tensor& found, const at::Tensor& exact) {
  return (found - exact).norm().item<double>() / (exact.norm().item<double>() + 1e-30);
}

}  // namespace

TEST_CASE("lora_linear_reference: gradients equal finite differences", "[peft]") {
  at::manual_seed(0);
  const auto dropout = GENERATE(0.0, 0.3);
  auto made = make(6, Arithmetic::Float32, at::kFloat, at::kDouble, dropout);
  auto x = at::randn({4, 6}, at::kDouble).requires_grad_();
  objective(lora_linear_reference(x, made.layers)).backward();

  const auto check = [&](at::Tensor input) {  // a handle: writes reach the layers
    const at::NoGradGuard no_grad;
    const auto gradient = input.grad().flatten();
    for (std::int64_t i = 0; i < input.numel(); ++i) {
      auto element = input.view(-1)[i];
      const auto value = element.item<double>();
      const auto at_value = [&](double v) {
        element.fill_(v);
        return objective(lora_linear_reference(x, made.layers)).item<double>();
      };
      const double h = 1e-6;  // error of the central difference: h^2 + 1e-16 / h
      const auto expected = (at_value(value + h) - at_value(value - h)) / (2 * h);
      element.fill_(value);
      CHECK(gradient[i].item<double>() == Approx(expected).epsilon(1e-6).margin(1e-7));
    }
  };
  check(x);
  for (auto& layer : made.layers) {
    check(layer.A_RI);
    check(layer.B_OR);
    CHECK_FALSE(layer.weight->stored().requires_grad());
  }
}

TEST_CASE("lora_linear: equals the reference, whatever asks for a gradient", "[peft]") {
  at::manual_seed(0);
  const bool input_needs = GENERATE(true, false);
  const bool all_used = GENERATE(true, false);
  const auto dropout = GENERATE(0.0, 0.3);
  const auto tokens = GENERATE(1, 7, 1100);
  const auto arithmetic = GENERATE(Arithmetic::Float32, Arithmetic::BFloat16);
  const auto stored = GENERATE(at::kFloat, at::kBFloat16);
  if (arithmetic == Arithmetic::BFloat16 && stored == at::kFloat) return;
  const bool rounded = arithmetic == Arithmetic::BFloat16;
  CAPTURE(input_needs, all_used, dropout, tokens, rounded, c10::toString(stored));
  const auto made = make(48, arithmetic, stored, at::kFloat, dropout);
  const auto x = at::randn({tokens, 48}).to(activation_dtype(arithmetic));

  const auto fast = run(lora_linear, x, made.layers, input_needs, all_used);
  const auto exact = run(lora_linear_reference, x, made.layers, input_needs, all_used);
  REQUIRE(fast.size() == exact.size());
  for (std::size_t i = 0; i < fast.size(); ++i) {
    CAPTURE(i);
    // The objective's derivative turns the rounding of y into one of dy of the size of y.
    CHECK(relative_error(fast[i], exact[i]) < (rounded ? 5e-2 : 1e-5));
  }
}

TEST_CASE("lora_linear_known: has the graph of lora_linear over answers that are given", "[peft]") {
  at::manual_seed(0);
  const bool input_needs = GENERATE(true, false);
  const bool all_used = GENERATE(true, false);
  const auto made = make(48, Arithmetic::Float32, at::kFloat, at::kFloat, 0.0);
  const auto x = at::randn({7, 48});
  const auto known = [](const at::Tensor& input, std::span<const LoraOperands> layers) {
    const auto answers = [&] {
      const at::NoGradGuard no_grad;
      return lora_linear(input, layers);
    };
    auto y = answers();
    for (auto& part : y) part.mul_(1.25);  // no answers of these layers: they are not made again
    return lora_linear_known(input, layers, y);
  };
  const auto found = run(known, x, made.layers, input_needs, all_used);
  const auto scaled = [](const at::Tensor& input, std::span<const LoraOperands> layers) {
    auto y = lora_linear(input, layers);
    // The value is 1.25 y, the gradient that of y.
    for (auto& part : y) part = part + 0.25 * part.detach();
    return y;
  };
  const auto expected = run(scaled, x, made.layers, input_needs, all_used);
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    CAPTURE(i);
    CHECK(relative_error(found[i], expected[i]) < 1e-6);
  }
  CHECK_THROWS_WITH(lora_linear_known(x, made.layers, {x}), Catch::Contains("1 answers of"));
  const std::vector<at::Tensor> wrong(made.layers.size(), at::zeros({7, 3}));
  CHECK_THROWS_WITH(lora_linear_known(x, made.layers, wrong),
                    Catch::Contains("an answer is [7, 3]"));
}

TEST_CASE("lora_linear: a row of few has the same bits whatever rows stand beside it", "[peft]") {
  const auto arithmetic = GENERATE(Arithmetic::Float32, Arithmetic::BFloat16);
  if (arithmetic == Arithmetic::BFloat16 && !tailor::models::kernels::has_bf16_products()) return;
  const std::int64_t r = GENERATE(1, 16, 300), in = 800;
  at::manual_seed(5);
  const at::NoGradGuard no_grad;
  const auto dtype = activation_dtype(arithmetic);
  const Weight weight(at::randn({500, in}).to(dtype), arithmetic);
  const std::vector<LoraOperands> layer{{.weight = &weight,
                                         .bias_O = std::nullopt,
                                         .A_RI = at::randn({r, in}),
                                         .B_OR = at::randn({500, r}),
                                         .scale = 0.5,
                                         .dropout = std::nullopt}};
  const auto x = at::randn({64, in}).to(dtype);
  const auto whole = lora_linear(x, layer)[0];
  for (const std::int64_t rows : {1, 2, 18, 19, 40})
    CHECK(at::equal(lora_linear(x.narrow(0, 3, rows), layer)[0], whole.narrow(0, 3, rows)));
}

TEST_CASE("lora_linear: no tokens give gradients of zero", "[peft]") {
  const auto made = make(48, Arithmetic::Float32, at::kFloat, at::kFloat, 0.0);
  const auto x = at::randn({0, 48}).requires_grad_();
  at::Tensor sum = at::zeros({});
  for (const auto& y : lora_linear(x, made.layers)) sum = sum + y.sum();
  sum.backward();
  CHECK(x.grad().numel() == 0);
  for (const auto& layer : made.layers) {
    CHECK(at::equal(layer.A_RI.grad(), at::zeros_like(layer.A_RI)));
    CHECK(at::equal(layer.B_OR.grad(), at::zeros_like(layer.B_OR)));
  }
}

TEST_CASE("lora_linear: equals the closed form of a published example", "[peft]") {
  const auto indices = [](std::int64_t n) { return at::arange(1, n + 1, at::kFloat); };
  const auto o = indices(3).unsqueeze(1), j = indices(4).unsqueeze(0), k = indices(2);
  const auto W = (0.3 * o + 0.7 * j).sin();
  auto A = (0.5 * (0.4 * k.unsqueeze(1) * j).cos()).requires_grad_();
  auto B = (0.3 * (0.5 * o - 0.2 * k.unsqueeze(0)).sin()).requires_grad_();
  auto x = (0.9 * k.unsqueeze(1) + 0.35 * j).cos().requires_grad_();
  const auto dy = (1.1 * k.unsqueeze(1) * indices(3).unsqueeze(0)).sin();
  const Weight weight(W, Arithmetic::Float32);
  const LoraOperands layer{.weight = &weight,
                           .bias_O = std::nullopt,
                           .A_RI = A,
                           .B_OR = B,
                           .scale = 2.0,
                           .dropout = std::nullopt};
  const auto y = lora_linear(x, {&layer, 1}).front();
  (y * dy).sum().backward();
  const auto near = [](const at::Tensor& found, std::initializer_list<double> expected) {
    const auto e = at::tensor(std::vector<double>(expected), at::kDouble);
    return at::allclose(found.detach().flatten().to(at::kDouble), e, 1e-5, 1e-6);
  };
  CHECK(near(y, {0.00710988, 0.51904429, 0.94889218, -2.02559660, -1.47933905, -0.79017282}));
  CHECK(near(A.grad(), {0.17793415, 0.05687688, -0.07107696, -0.19041240, 0.13537479, 0.07892604,
                        0.01290715, -0.05467679}));
  CHECK(
      near(B.grad(), {-0.97740822, 2.11994631, 1.43906798, -0.34305012, -0.45451123, 0.23622138}));
  CHECK(near(x.grad(), {1.64694224, 1.64226500, 0.91083574, -0.21328658, -0.00225014, 0.14035585,
                        0.20736420, 0.16657668}));
}

TEST_CASE("lora_linear: gradients of factors add up in float32 over bfloat16 activations",
          "[peft]") {
  // 4,096 equal tokens: a bfloat16 sum of ones stalls at 256.
  const Weight weight(at::zeros({4, 8}, at::kBFloat16), Arithmetic::BFloat16);
  const LoraOperands layer{.weight = &weight,
                           .bias_O = std::nullopt,
                           .A_RI = at::ones({1, 8}).requires_grad_(),
                           .B_OR = at::ones({4, 1}).requires_grad_(),
                           .scale = 1.0,
                           .dropout = std::nullopt};
  const auto x = at::ones({4096, 8}, at::kBFloat16);
  for (int pass = 0; pass < 3; ++pass) lora_linear(x, {&layer, 1}).front().sum().backward();
  CHECK(layer.A_RI.grad().scalar_type() == at::kFloat);
  CHECK(at::equal(layer.A_RI.grad(), at::full({1, 8}, 3.0F * 4096 * 4)));
  CHECK(at::equal(layer.B_OR.grad(), at::full({4, 1}, 3.0F * 4096 * 8)));
}

TEST_CASE("lora_linear: an optimizer step between forward and backward is refused", "[peft]") {
  auto made = make(6, Arithmetic::Float32, at::kFloat);
  auto y = lora_linear(at::randn({3, 6}), made.layers);
  {
    const at::NoGradGuard no_grad;
    made.layers[0].B_OR.add_(1.0);
  }
  CHECK_THROWS_AS(objective(y).backward(), c10::Error);
}

TEST_CASE("lora_linear: operands that do not fit are refused by shape", "[peft]") {
  auto made = make(6, Arithmetic::Float32, at::kFloat);
  CHECK_THROWS_AS(lora_linear(at::randn({3, 5}), made.layers), c10::ValueError);
  made.layers[1].B_OR = at::randn({3, 2});
  CHECK_THROWS_AS(lora_linear(at::randn({3, 6}), made.layers), c10::ValueError);
}
