#include "models/kernels/matvec.hpp"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <c10/util/Exception.h>

#include <bit>
#include <catch2/catch.hpp>

using namespace tailor::models::kernels;

namespace {

struct Case {
  std::int64_t tokens, in, out;
};
constexpr Case kCases[] = {{1, 576, 192}, {2, 64, 7},   {3, 33, 5},    {4, 31, 16},   {5, 1, 9},
                           {7, 47, 1},    {8, 8, 3},    {1, 1536, 65}, {13, 96, 30},  {1, 0, 4},
                           {1, 64, 16},   {5, 576, 48}, {16, 32, 80},  {35, 96, 1040}};

at::Tensor integers(at::IntArrayRef shape) {  // small, so that every sum is exact in any order
  return at::randn(shape).mul_(2).round_().clamp_(-4, 4);
}

}  // namespace

TEST_CASE("matvec: exact sums on integers, for every instruction set and dtype", "[models]") {
  for (const auto isa : available_isas())
    for (const auto& c : kCases)
      for (const auto x_type : {at::kFloat, at::kBFloat16})
        for (const auto w_type : {at::kFloat, at::kBFloat16}) {
          CAPTURE(static_cast<int>(isa), c.tokens, c.in, c.out, x_type, w_type);
          const auto x = integers({c.tokens, c.in}).to(x_type);
          const auto w = integers({c.out, c.in}).to(w_type);
          const auto bias = integers({c.out});
          const auto y = matvec(x, w, bias, isa);
          CHECK(y.scalar_type() == x_type);
          CHECK(at::equal(y, matvec_reference(x, w, bias).to(x_type)));
        }
}

TEST_CASE("matvec: near the float64 product on random numbers", "[models]") {
  for (const auto isa : available_isas())
    for (const auto w_type : {at::kFloat, at::kBFloat16}) {
      const auto x = at::randn({3, 1536}), w = at::randn({100, 1536}).to(w_type);
      const auto y = matvec(x, w, {}, isa);
      CHECK((y - matvec_reference(x, w)).abs().max().item<double>() < 2e-4);  // sums near 40
    }
}

TEST_CASE("matvec: a token's bits do not depend on its neighbours or on the threads", "[models]") {
  const auto threads = at::get_num_threads();
  const auto x_type = GENERATE(at::kFloat, at::kBFloat16);
  const auto w_type = GENERATE(at::kFloat, at::kBFloat16);
  const auto in = GENERATE(192, 187), out = GENERATE(336, 335);  // whole vectors and blocks, or not
  const auto x = at::randn({kMatvecMaxTokens, in}).to(x_type), w = at::randn({out, in}).to(w_type);
  for (const auto isa : available_isas()) {
    CAPTURE(static_cast<int>(isa), x_type, w_type, in, out);
    at::set_num_threads(1);
    const auto together = matvec(x, w, {}, isa);
    at::set_num_threads(2);
    CHECK(at::equal(matvec(x, w, {}, isa), together));
    for (const std::int64_t count : {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 31, 37})
      for (std::int64_t t = 0; t + count <= kMatvecMaxTokens; t += count)
        CHECK(at::equal(matvec(x.narrow(0, t, count), w, {}, isa), together.narrow(0, t, count)));
  }
  at::set_num_threads(threads);
}

TEST_CASE("matvec: rows of a wider matrix and columns as x are read where they lie", "[models]") {
  const auto wide = integers({40, 100});
  const auto w = wide.narrow(1, 10, 50);
  const auto x = integers({50, 3}).t();
  CHECK(at::equal(matvec(x, w), matvec_reference(x, w).to(at::kFloat)));
  const auto turned = integers({50, 20}).t();  // not contiguous along I
  CHECK(at::equal(matvec(x, turned), matvec_reference(x, turned).to(at::kFloat)));
}

TEST_CASE("matvec: NaN and infinity come through", "[models]") {
  const auto all_ones = std::bit_cast<float>(0x7FFFFFFFU);  // rounding it up would make it -0
  for (const auto isa : available_isas())
    for (const auto w_type : {at::kBFloat16, at::kFloat})
      for (const std::int64_t tokens : {1, 9}) {  // one by one, and in blocks
        auto x = at::full({tokens, 64}, 1.0F).to(at::kBFloat16);
        auto w = at::full({16, 64}, 1.0F).to(w_type);
        w[0][39] = all_ones;
        w[1][3] = std::numeric_limits<float>::infinity();
        const auto y = matvec(x, w, {}, isa);
        for (std::int64_t t = 0; t < tokens; ++t) {
          CHECK(std::isnan(y[t][0].item<float>()));
          CHECK(std::isinf(y[t][1].item<float>()));
          CHECK(y[t][2].item<float>() == 64.0F);
        }
      }
}

TEST_CASE("matvec: shapes and dtypes that do not fit are refused", "[models]") {
  const auto x = at::randn({1, 4}), w = at::randn({3, 4});
  CHECK_THROWS_AS(matvec(at::randn({1, 5}), w), c10::ValueError);
  CHECK_THROWS_AS(matvec(at::randn({4}), w), c10::ValueError);
  CHECK_THROWS_AS(matvec(x, w, at::randn({4})), c10::ValueError);
  CHECK_THROWS_AS(matvec(x.to(at::kHalf), w), c10::ValueError);
  CHECK_THROWS_AS(matvec(x, at::arange(12).view({3, 4})), c10::ValueError);
}
