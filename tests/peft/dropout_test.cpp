#include "peft/dropout.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>

#include <catch2/catch.hpp>

using tailor::peft::drop_;
using tailor::peft::Dropout;

namespace {

at::Tensor mask(std::int64_t tokens, std::int64_t in, const Dropout& dropout) {
  auto ones = at::ones({tokens, in});
  drop_(ones, dropout);
  return ones;
}

}  // namespace

TEST_CASE("drop_ zeroes the asked share and leaves the rest as it is", "[peft]") {
  const auto p = GENERATE(0.0, 0.1, 0.5, 0.9);
  const auto m = mask(500, 203, {.p = p, .seed = 3, .stream = 5});
  CHECK(((m == 0) | (m == 1)).all().item<bool>());
  CHECK(1.0 - m.mean().item<double>() == Approx(p).margin(0.01));  // 6 standard errors
}

TEST_CASE("the mask does not depend on how a step is cut into micro-batches", "[peft]") {
  const Dropout whole{.p = 0.4, .seed = 3, .stream = 5};
  auto second = whole;
  second.first_token = 13;
  CHECK(at::equal(mask(40, 30, whole), at::cat({mask(13, 30, whole), mask(27, 30, second)})));
}

TEST_CASE("seed and stream give other masks", "[peft]") {
  const Dropout base{.p = 0.4, .seed = 3, .stream = 5};
  auto seed = base, stream = base;
  seed.seed = 4;
  stream.stream = 6;
  CHECK_FALSE(at::equal(mask(40, 30, base), mask(40, 30, seed)));
  CHECK_FALSE(at::equal(mask(40, 30, base), mask(40, 30, stream)));
  CHECK_FALSE(at::equal(mask(40, 30, seed), mask(40, 30, stream)));
}

TEST_CASE("drop_ draws the same entries in every dtype", "[peft]") {
  const Dropout dropout{.p = 0.4, .seed = 3, .stream = 5};
  for (const auto dtype : {at::kDouble, at::kBFloat16}) {
    auto ones = at::ones({8, 30}, dtype);
    drop_(ones, dropout);
    CHECK(at::equal(ones.to(at::kFloat), mask(8, 30, dropout)));
  }
}
