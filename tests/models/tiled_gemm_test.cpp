#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>

#include <hwy/targets.h>
#include <catch2/catch.hpp>
#include <limits>
#include <vector>

#include "models/kernels/add_product.hpp"
#include "models/kernels/arithmetic.hpp"
#include "models/kernels/small_gemm.hpp"
#include "models/kernels/tiled_gemm.hpp"
#include "models/kernels/weight.hpp"

using namespace tailor::models::kernels;

namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

enum class Layout { Rows, RowsWithGaps, ColumnsWithGaps };

/// NaNs in the gaps; without them a read behind the matrix leaves its memory.
at::Tensor matrix(std::int64_t rows, std::int64_t columns, Layout layout) {
  if (layout == Layout::Rows) return at::randn({rows, columns});
  const bool by_row = layout == Layout::RowsWithGaps;
  const auto lines = by_row ? rows : columns, length = by_row ? columns : rows;
  auto with_gaps = at::full({lines, length + 5}, kNaN);
  auto values = with_gaps.narrow(1, 0, length);
  values.normal_();
  return by_row ? values : values.t();
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

/// Instruction sets of this processor that the kernels are compiled for, a bit each.
std::vector<std::int64_t> targets() {
  std::vector<std::int64_t> out;
  for (auto left = hwy::SupportedTargets(); left != 0; left &= left - 1)
    out.push_back(left & -left);
  return out;
}

struct OnTarget {
  explicit OnTarget(std::int64_t target) { choose(target); }
  ~OnTarget() { choose(0); }  // any
  static void choose(std::int64_t target) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().DeInit();  // asked for anew by the next call
  }
};

struct Threads {
  ~Threads() { at::set_num_threads(before); }
  int before = at::get_num_threads();
};

}  // namespace

TEST_CASE("tiled products equal exact ones at every edge and in every layout", "[models]") {
  at::manual_seed(0);
  const OnTarget target(GENERATE(from_range(targets())));
  const auto m = GENERATE(0, 1, 5, 12, 13, 48, 131);
  const auto n = GENERATE(0, 1, 15, 16, 41, 200);
  const auto k = GENERATE(0, 3, 64, 769, 1700);
  const auto a_layout = GENERATE(Layout::Rows, Layout::ColumnsWithGaps);
  const auto b_layout = GENERATE(Layout::Rows, Layout::RowsWithGaps, Layout::ColumnsWithGaps);
  const auto a = matrix(m, k, a_layout), b = matrix(k, n, b_layout);
  const auto product = exact(a, b);

  auto whole = at::full({m, n + 2}, kNaN);  // must not be read, nor written behind its columns
  auto c = whole.narrow(1, 0, n);
  tiled_gemm(m, n, k, 0.5F, view_of(a), view_of(b), 0.0F, c.mutable_data_ptr<float>(), n + 2);
  CHECK(close(c, product * 0.5));
  CHECK(whole.narrow(1, n, 2).isnan().all().item().toBool());

  const auto before = c.to(at::kDouble);
  const auto a2 = matrix(m, 7, a_layout), b2 = matrix(7, n, b_layout);
  tiled_gemm(m, n, k, 0.5F, view_of(a), view_of(b), -2.0F, c.mutable_data_ptr<float>(), n + 2,
             {view_of(a2), view_of(b2), 7, 3.0F});
  CHECK(close(c, (product + exact(a2, b2) * 3.0) * 0.5 - before * 2.0));
}

TEST_CASE("a tiled product has the same bits on one thread, on several, and among others",
          "[models]") {
  at::manual_seed(1);
  const auto m = GENERATE(16, 20, 300);  // B read in place; threads share columns, rows
  const auto layout = GENERATE(Layout::Rows, Layout::ColumnsWithGaps);
  const std::int64_t n = 333, k = 1000;
  const auto a = matrix(m, k, Layout::Rows), b = matrix(k, n, layout);
  const auto a_view = view_of(a), b_view = view_of(b);
  const auto multiply = [&](float* c) { tiled_gemm(m, n, k, 1.0F, a_view, b_view, 0.0F, c, n); };
  const Threads threads;
  at::set_num_threads(1);
  const auto one = at::empty({m, n}), two = at::empty({m, n}), four = at::empty({4, m, n});
  multiply(one.mutable_data_ptr<float>());
  at::set_num_threads(2);
  multiply(two.mutable_data_ptr<float>());
  CHECK(at::equal(two, one));
  auto* const c = four.mutable_data_ptr<float>();
  at::parallel_for(0, 4, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = begin; i < end; ++i) multiply(c + i * m * n);
  });
  for (std::int64_t i = 0; i < 4; ++i) CHECK(at::equal(four.select(0, i), one));
}

TEMPLATE_TEST_CASE("products over raw memory equal exact ones, whoever multiplies", "[models]",
                   float, c10::BFloat16) {
  at::manual_seed(3);
  const bool prefers = GENERATE(false, true);
  if (!prefers && sizeof(TestType) == 2 && !has_bf16_products()) return;  // nobody asks for them
  const Preference preference(prefers);
  const std::int64_t m = GENERATE(1, 70), k = GENERATE(5, 300), n = GENERATE(3, 1500);
  const auto rows = [](std::int64_t count, std::int64_t size) {  // with gaps between them
    return at::randn({count, size + 3}).to(c10::CppTypeToScalarType<TestType>::value);
  };
  const auto a = rows(m, k), at = rows(k, m), b = rows(k, n), bt = rows(n, k);
  const auto of = [](const at::Tensor& x) { return x.narrow(1, 0, x.size(1) - 3); };
  const auto data = [](const at::Tensor& x) { return x.const_data_ptr<TestType>(); };
  auto whole = at::full({m, n + 2}, 1.0F);
  auto c = whole.narrow(1, 0, n);
  auto* const out = c.mutable_data_ptr<float>();

  gemm_nt(m, n, k, 0.5F, data(a), k + 3, data(bt), k + 3, 2.0F, out, n + 2);
  CHECK(close(c, exact(of(a), of(bt).t()) * 0.5 + 2.0));
  c.fill_(kNaN);  // must not be read
  gemm_nn(m, n, k, 1.0F, data(a), k + 3, data(b), n + 3, 0.0F, out, n + 2);
  CHECK(close(c, exact(of(a), of(b))));
  gemm_tn(m, n, k, 1.0F, data(at), m + 3, data(b), n + 3, 0.0F, out, n + 2);
  CHECK(close(c, exact(of(at).t(), of(b))));
  CHECK(whole.narrow(1, n, 2).eq(1.0F).all().item<bool>());
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
  auto wrong_dx = at::empty({t, in + 1});
  CHECK_THROWS(weight.backward_(wrong_dx, dy));
  const LowRankTerm wrong_term{h, B, 1.0};
  CHECK_THROWS(weight.forward(x, {}, &wrong_term));
}
