#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>

#include <catch2/catch.hpp>

#include "models/kernels/grouped_gemm.hpp"

using namespace tailor::models::kernels;

namespace {

/// Idle experts, one row, few rows (the decoding kernel), more than one block, and a rest.
const std::vector<std::int64_t> kCounts{0, 1, 5, 600, 0, 33, 256, 7, 0};

struct Case {
  std::vector<Weight> weights;
  std::vector<std::int64_t> offsets{0};
  at::Tensor x, dy;

  Case(std::int64_t in, std::int64_t out, at::ScalarType stored, Arithmetic arithmetic) {
    at::manual_seed(0);
    for (const auto count : kCounts) {
      weights.emplace_back((at::randn({out, in}) / 4).to(stored), arithmetic);
      offsets.push_back(offsets.back() + count);
    }
    const auto dtype = activation_dtype(arithmetic);
    x = at::randn({offsets.back(), in}).to(dtype);
    dy = at::randn({offsets.back(), out}).to(dtype);
  }
  /// Each expert's product in float64.
  at::Tensor exact(const at::Tensor& rows, bool transposed) const {
    std::vector<at::Tensor> parts;
    for (std::size_t e = 0; e < weights.size(); ++e) {
      const auto w = weights[e].stored().to(at::kDouble);
      const auto part = rows.narrow(0, offsets[e], offsets[e + 1] - offsets[e]).to(at::kDouble);
      parts.push_back(part.matmul(transposed ? w.t() : w));
    }
    return at::cat(parts);
  }
};

/// float32: sums in another order; bfloat16: one rounding of the answer.
bool close(const at::Tensor& a, const at::Tensor& b) {
  const double tolerance = a.scalar_type() == at::kFloat ? 1e-5 : 8e-3;
  return at::allclose(a.to(at::kDouble), b, tolerance, tolerance * 4);
}

}  // namespace

TEST_CASE("products of all experts equal those of each, forward and backward", "[models]") {
  const auto arithmetic = GENERATE(Arithmetic::Float32, Arithmetic::BFloat16);
  const auto stored = GENERATE(at::kFloat, at::kBFloat16);
  const bool keep_copies = GENERATE(true, false);
  if (arithmetic == Arithmetic::BFloat16 && (stored == at::kFloat || !has_bf16_products())) return;
  set_widened_budget_bytes(keep_copies ? std::int64_t{1} << 30 : 0);
  const auto [in, out] = GENERATE(std::pair<std::int64_t, std::int64_t>{48, 20},
                                  std::pair<std::int64_t, std::int64_t>{64, 96});
  const Case c(in, out, stored, arithmetic);
  CAPTURE(in, out, c10::toString(stored), c10::toString(activation_dtype(arithmetic)), keep_copies);
  CHECK(close(grouped_forward(c.x, c.offsets, c.weights), c.exact(c.x, true)));
  CHECK(close(grouped_forward_reference(c.x, c.offsets, c.weights), c.exact(c.x, true)));
  at::Tensor dx;
  grouped_backward_(dx, c.dy, c.offsets, c.weights);
  CHECK(close(dx, c.exact(c.dy, false)));
  const auto before = dx.to(at::kDouble);
  grouped_backward_(dx, c.dy, c.offsets, c.weights);
  CHECK(close(dx, before + c.exact(c.dy, false)));
}

TEST_CASE("no rows at all give no answers", "[models]") {
  const Case c(8, 4, at::kFloat, Arithmetic::Float32);
  const std::vector<std::int64_t> none(c.offsets.size(), 0);
  CHECK(grouped_forward(at::empty({0, 8}), none, c.weights).sizes() == at::IntArrayRef({0, 4}));
  at::Tensor dx;
  grouped_backward_(dx, at::empty({0, 4}), none, c.weights);
  CHECK(dx.sizes() == at::IntArrayRef({0, 8}));
}

TEST_CASE("runs give the same bits", "[models]") {
  const Case c(64, 96, at::kFloat, Arithmetic::Float32);
  const auto first = grouped_forward(c.x, c.offsets, c.weights);
  for (int run = 0; run < 5; ++run) CHECK(grouped_forward(c.x, c.offsets, c.weights).equal(first));
}

TEST_CASE("offsets that do not cover the rows are refused", "[models]") {
  const Case c(8, 4, at::kFloat, Arithmetic::Float32);
  CHECK_THROWS_AS(grouped_forward(c.x.narrow(0, 0, 3), c.offsets, c.weights), c10::ValueError);
}
