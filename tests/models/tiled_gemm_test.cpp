#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <limits>

#include "models/kernels/add_product.hpp"
#include "models/kernels/tiled_gemm.hpp"
#include "models/kernels/weight.hpp"

using namespace tailor::models::kernels;

namespace {

/// A matrix whose rows, or columns, lie in one piece with a gap behind each.
at::Tensor matrix(std::int64_t rows, std::int64_t columns, bool by_column) {
  return by_column ? at::randn({columns, rows + 3}).narrow(1, 0, rows).t()
                   : at::randn({rows, columns + 5}).narrow(1, 0, columns);
}

at::Tensor exact(const at::Tensor& a, const at::Tensor& b) {
  return a.to(at::kDouble).matmul(b.to(at::kDouble));
}

/// Rounding of up to 1700 products of about 1 each; a wrong one is off by about 1.
bool close(const at::Tensor& c, const at::Tensor& wanted) {
  return at::allclose(c.to(at::kDouble), wanted, 1e-5, 5e-4);
}

struct Preference {
  explicit Preference(bool prefers) : before(set_prefers_tiled_gemm(prefers)) {}
  ~Preference() { set_prefers_tiled_gemm(before); }
  bool before;
};

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

}  // namespace

TEST_CASE("tiled products equal exact ones at every edge and in every layout", "[models]") {
  at::manual_seed(0);
  const auto m = GENERATE(1, 5, 12, 13, 48, 131);
  const auto n = GENERATE(1, 15, 16, 32, 41, 200);
  const auto k = GENERATE(1, 3, 64, 769, 1700);
  const bool a_by_column = GENERATE(false, true), b_by_column = GENERATE(false, true);
  const auto a = matrix(m, k, a_by_column), b = matrix(k, n, b_by_column);
  const auto product = exact(a, b);

  auto whole = at::full({m, n + 2}, kNaN);  // must not be read, nor written behind its columns
  auto c = whole.narrow(1, 0, n);
  tiled_gemm(m, n, k, 0.5F, view_of(a), view_of(b), 0.0F, c.mutable_data_ptr<float>(), n + 2);
  CHECK(close(c, product * 0.5));
  CHECK(whole.narrow(1, n, 2).isnan().all().item().toBool());

  const auto before = c.to(at::kDouble);
  const auto a2 = matrix(m, 7, a_by_column), b2 = matrix(7, n, b_by_column);
  tiled_gemm(m, n, k, 1.0F, view_of(a), view_of(b), -2.0F, c.mutable_data_ptr<float>(), n + 2,
             {view_of(a2), view_of(b2), 7, 3.0F});
  CHECK(close(c, product + exact(a2, b2) * 3.0 - before * 2.0));
}

TEST_CASE("a tiled product has the same bits on one thread, on several, and among others",
          "[models]") {
  at::manual_seed(1);
  const auto m = GENERATE(20, 300);  // threads share columns, rows
  const std::int64_t n = 333, k = 1000;
  const auto a = matrix(m, k, false), b = matrix(k, n, true);
  const auto run = [&] {
    auto c = at::empty({m, n});
    tiled_gemm(m, n, k, 1.0F, view_of(a), view_of(b), 0.0F, c.mutable_data_ptr<float>(), n);
    return c;
  };
  at::set_num_threads(1);
  const auto one = run();
  at::set_num_threads(2);
  CHECK(at::equal(run(), one));
  std::atomic<int> equal{0};
  at::parallel_for(0, 4, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = begin; i < end; ++i) equal += at::equal(run(), one) ? 1 : 0;
  });
  CHECK(equal == 4);
}

TEST_CASE("products of tensors and weights do not depend on who multiplies", "[models]") {
  at::manual_seed(2);
  const Preference preference(GENERATE(false, true));
  const auto stored = GENERATE(at::kFloat, at::kBFloat16);
  const std::int64_t t = GENERATE(3, 100), in = 72, out = 50, r = 4;
  const Weight weight((at::randn({out, in}) / 4).to(stored), Arithmetic::Float32);
  const auto w = weight.stored().to(at::kDouble);
  const auto x = at::randn({t, in}), dy = at::randn({t, out}), bias = at::randn({out});
  const auto h = at::randn({t, 2 * r}).narrow(1, r, r);  // some columns of all layers'
  const auto A = at::randn({r, in}), B = at::randn({out, r});

  const LowRankTerm up{h, B.t(), 0.5};
  const auto wanted = x.to(at::kDouble).matmul(w.t()) + bias;
  CHECK(close(weight.forward(x, bias), wanted));
  CHECK(close(weight.forward(x, bias, &up), wanted + exact(h, B.t()) * 0.5));

  const LowRankTerm down{h, A, 2.0};
  const auto wanted_dx = dy.to(at::kDouble).matmul(w) + exact(h, A) * 2.0;
  at::Tensor dx;
  weight.backward_(dx, dy, &down);
  CHECK(close(dx, wanted_dx));
  weight.backward_(dx, dy);
  CHECK(close(dx, wanted_dx + dy.to(at::kDouble).matmul(w)));

  auto c = at::randn({r, in});
  const auto before = c.to(at::kDouble);
  add_product_(c, h.t(), x, 1.0, 3.0);
  CHECK(close(c, before + exact(h.t(), x) * 3.0));
  auto wrong = at::empty({r, in + 1});
  CHECK_THROWS(add_product_(wrong, h.t(), x));
}
