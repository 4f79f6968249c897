#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <catch2/catch.hpp>

#include "models/layers/drop_tokens.hpp"

using namespace tailor::models;
using Drop = ExpertCapacity::Drop;

namespace {

constexpr double kFactor = 1.0;
const RouterConfig kRouter{.num_experts = 2, .num_experts_per_tok = 1};

/// Of one expert a token.
std::vector<std::int64_t> kept(const std::vector<std::int64_t>& ids,
                               const std::vector<float>& weights, Drop drop,
                               const std::vector<std::int64_t>& offsets) {
  const Routes routes{at::tensor(ids, at::kLong).unsqueeze(1), at::tensor(weights).unsqueeze(1)};
  const auto found =
      within_capacity(routes, kRouter, {.factor = kFactor, .drop = drop}, offsets).contiguous();
  CHECK(routes.ids_TK.flatten().equal(at::tensor(ids, at::kLong)));  // left as they were
  const auto* id = found.const_data_ptr<std::int64_t>();
  return {id, id + found.numel()};
}

using Ids = std::vector<std::int64_t>;

}  // namespace

TEST_CASE("the capacity is the even share times the factor, rounded up", "[models]") {
  const RouterConfig router{.num_experts = 8, .num_experts_per_tok = 2};
  CHECK(expert_capacity(64, router, 1.0) == 16);
  CHECK(expert_capacity(65, router, 1.0) == 17);
  CHECK(expert_capacity(64, router, 1.25) == 20);
  CHECK(expert_capacity(440, router, 1.1) == 121);
  CHECK(expert_capacity(1, router, 0.01) == 1);
  CHECK(expert_capacity(64, router, 4.0) == 64);  // every token: nothing is dropped
  CHECK(expert_capacity(64, router, 1e300) == 64);
}

TEST_CASE("a full expert drops the smallest weights, or the last tokens", "[models]") {
  const Ids ids{0, 0, 1, 0};
  const std::vector<float> weights{0.2F, 0.9F, 0.1F, 0.5F};
  CHECK(kept(ids, weights, Drop::Probs, {0, 4}) == Ids{-1, 0, 1, 0});
  CHECK(kept(ids, weights, Drop::Position, {0, 4}) == Ids{0, 0, 1, -1});
  CHECK(kept(ids, {0.5F, 0.5F, 0.1F, 0.5F}, Drop::Probs, {0, 4}) == Ids{0, 0, 1, -1});
}

TEST_CASE("every document has a capacity of its own", "[models]") {
  const std::vector<float> weights{0.2F, 0.9F, 0.1F, 0.5F};
  CHECK(kept({0, 0, 0, 0}, weights, Drop::Probs, {0, 2, 4}) == Ids{-1, 0, -1, 0});
  CHECK(kept({0, 0, 0, 0}, weights, Drop::Probs, {0, 1, 4}) == Ids{0, 0, -1, 0});
}
