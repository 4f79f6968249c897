#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>

#include <catch2/catch.hpp>
#include <limits>

#include "models/kernels/rms_norm.hpp"
#include "models/kernels/rotary.hpp"
#include "models/kernels/sigmoid.hpp"
#include "models/kernels/swiglu.hpp"
#include "models/kernels/token_loss.hpp"
#include "models/kernels/weight.hpp"

using namespace tailor::models::kernels;
namespace kernels = tailor::models::kernels;  // at::sigmoid is found as well

namespace {

/// float32: rounding of sums in another order; bfloat16: one step of 2^-8.
double tolerance(at::ScalarType dtype) { return dtype == at::kFloat ? 2e-5 : 8e-3; }

bool close(const at::Tensor& a, const at::Tensor& b, at::ScalarType dtype) {
  return at::allclose(a.to(at::kDouble), b.to(at::kDouble), tolerance(dtype), tolerance(dtype));
}

}  // namespace

TEST_CASE("rms_norm and its gradient equal the reference, whatever the row size", "[models]") {
  at::manual_seed(0);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const std::int64_t size = GENERATE(1, 7, 16, 33, 576);
  const std::int64_t rows = GENERATE(0, 1, 5, 300);
  const bool with_delta = GENERATE(true, false);
  CAPTURE(c10::toString(dtype), size, rows, with_delta);
  const auto x = at::randn({rows, size}, dtype), dy = at::randn({rows, size}, dtype),
             dh = at::randn({rows, size}, dtype), weight = at::rand({size}) + 0.5;
  const auto delta = with_delta ? std::optional(at::randn({rows, size}, dtype)) : std::nullopt;
  const auto fast = rms_norm(x, delta, weight, 1e-5);
  const auto plain = rms_norm_reference(x, delta, weight, 1e-5);
  CHECK(close(fast.h_TD, plain.h_TD, dtype));
  CHECK(close(fast.y_TD, plain.y_TD, dtype));
  CHECK(close(fast.rstd_T, plain.rstd_T, dtype));
  const auto other = with_delta ? std::optional(dh) : std::nullopt;
  CHECK(close(rms_norm_backward(dy, other, fast.h_TD, weight, fast.rstd_T),
              rms_norm_backward_reference(dy, other, fast.h_TD, weight, fast.rstd_T), dtype));
}

TEST_CASE("the reference gradient of rms_norm is autograd's in float64", "[models]") {
  at::manual_seed(0);
  const auto x = at::randn({4, 9}, at::kDouble).requires_grad_();
  const auto weight = at::rand({9}, at::kDouble) + 0.5, dy = at::randn({4, 9}, at::kDouble);
  const auto forward = rms_norm_reference(x, {}, weight, 1e-5);
  forward.y_TD.backward(dy);
  CHECK(
      at::allclose(rms_norm_backward_reference(dy, {}, x.detach(), weight, forward.rstd_T.detach()),
                   x.grad(), 1e-10, 1e-10));
}

TEST_CASE("a NaN in a row stays in that row", "[models]") {
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  auto x = at::ones({3, 40}, dtype);
  x[1][17] = std::numeric_limits<double>::quiet_NaN();
  const auto y = rms_norm(x, {}, at::ones({40}), 1e-5).y_TD;
  CHECK(y[1].isnan().all().item<bool>());
  CHECK_FALSE(y[0].isnan().any().item<bool>());
  CHECK_FALSE(y[2].isnan().any().item<bool>());
}

TEST_CASE("swiglu equals the reference and its gradient autograd's", "[models]") {
  at::manual_seed(0);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const std::int64_t size = GENERATE(1, 31, 1536);
  CAPTURE(c10::toString(dtype), size);
  const auto gate = at::randn({7, size}, dtype) * 4, up = at::randn({7, size}, dtype),
             dy = at::randn({7, size}, dtype);
  CHECK(close(swiglu(gate, up), swiglu_reference(gate, up), dtype));
  auto g = gate.to(at::kDouble).requires_grad_(), u = up.to(at::kDouble).requires_grad_();
  swiglu_reference(g, u).backward(dy.to(at::kDouble));
  const auto [dgate, dup] = swiglu_backward(dy, gate, up);
  CHECK(close(dgate, g.grad(), dtype));
  CHECK(close(dup, u.grad(), dtype));
}

TEST_CASE("a sigmoid has the same bits alone and among others, and autograd's gradient",
          "[models]") {
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const auto x = (at::randn({70, 9}) * 20).to(dtype);
  {
    const at::NoGradGuard no_grad;
    const auto whole = kernels::sigmoid(x);
    CHECK(whole.scalar_type() == dtype);
    CHECK(at::allclose(whole.to(at::kDouble), x.to(at::kDouble).sigmoid(),
                       dtype == at::kFloat ? 2e-7 : 4e-3, 1e-30));
    for (const std::int64_t rows : {1, 3, 16})
      CHECK(at::equal(kernels::sigmoid(x.narrow(0, 5, rows)), whole.narrow(0, 5, rows)));
    CHECK(at::equal(kernels::sigmoid(x.t()), whole.t()));
  }
  const auto wide = x.to(at::kFloat).requires_grad_();
  const auto y = kernels::sigmoid(wide);
  y.sum().backward();
  CHECK(at::allclose(wide.grad(), y.detach() * (1 - y.detach())));
}

TEST_CASE("a rotation equals the reference, its inverse undoes it, strided tokens included",
          "[models]") {
  at::manual_seed(0);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const std::int64_t head_dim = GENERATE(2, 10, 64);
  CAPTURE(c10::toString(dtype), head_dim);
  const auto angle = at::randn({5, head_dim / 2});
  const auto wide = at::randn({5, 4, head_dim}, dtype);
  for (const auto& x : {wide, wide.narrow(1, 1, 2)}) {
    const auto y = rotate(x, angle.cos(), angle.sin());
    CHECK(close(y, rotate_reference(x, angle.cos(), angle.sin()), dtype));
    CHECK(close(rotate(y, angle.cos(), angle.sin(), /*inverse=*/true), x, dtype));
  }
}

TEST_CASE("token losses and their gradient equal the reference", "[models]") {
  at::manual_seed(0);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const std::int64_t vocab = GENERATE(2, 35, 1000);
  CAPTURE(c10::toString(dtype), vocab);
  const auto logits = at::randn({9, vocab}, dtype) * 5;
  const auto target = at::randint(vocab, {9}, at::kLong);
  auto fast_grad = logits.clone(), plain_grad = logits.clone();
  const auto fast = token_loss_(fast_grad, target, true);
  const auto plain = token_loss_reference_(plain_grad, target, true);
  CHECK(close(fast.loss_C, plain.loss_C, at::kFloat));
  CHECK(at::equal(fast.correct_C, plain.correct_C));
  CHECK(close(fast_grad, plain_grad, dtype));
  auto untouched = logits.clone();
  token_loss_(untouched, target, false);
  CHECK(at::equal(untouched, logits));
}

TEST_CASE("float32 products over bfloat16 storage are exact products of the stored values",
          "[models]") {
  at::manual_seed(0);
  const bool keep_copies = GENERATE(true, false);
  set_widened_budget_bytes(keep_copies ? std::int64_t{1} << 30 : 0);
  const auto before = widened_bytes();
  {
    const auto stored = at::randn({24, 40}, at::kBFloat16);
    const Weight weight(stored, Arithmetic::Float32);
    CHECK(widened_bytes() - before == (keep_copies ? 24 * 40 * 4 : 0));
    const std::int64_t tokens = GENERATE(1, 8, 9, 50);
    const auto x = at::randn({tokens, 40}), dy = at::randn({tokens, 24});
    const auto exact = stored.to(at::kDouble);
    CHECK(close(weight.forward(x), x.to(at::kDouble).mm(exact.t()), at::kFloat));
    at::Tensor dx;
    weight.backward_(dx, dy);
    CHECK(close(dx, dy.to(at::kDouble).mm(exact), at::kFloat));
    weight.backward_(dx, dy);
    CHECK(close(dx, 2 * dy.to(at::kDouble).mm(exact), at::kFloat));
  }
  CHECK(widened_bytes() == before);
  set_widened_budget_bytes(std::int64_t{4} << 30);
}

TEST_CASE("bfloat16 products agree with exact ones to bfloat16 rounding", "[models]") {
  if (!has_bf16_products()) {
    CHECK(best_arithmetic(at::kBFloat16) == Arithmetic::Float32);  // the slow path is unreachable
    return;
  }
  at::manual_seed(0);
  const std::int64_t tokens = GENERATE(1, 8, 64);
  const auto stored = at::randn({24, 40}, at::kBFloat16);
  const Weight weight(stored, Arithmetic::BFloat16);
  const auto x = at::randn({tokens, 40}, at::kBFloat16);
  const auto exact = x.to(at::kDouble).mm(stored.to(at::kDouble).t());
  CHECK(at::allclose(weight.forward(x).to(at::kDouble), exact, 8e-3, 5e-2));
}
