#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>

#include <catch2/catch.hpp>

#include "models/kernels/plain.hpp"
#include "models/layers/expert_exchange.hpp"

using namespace tailor::models;

namespace {

/// T tokens with K distinct experts each.
at::Tensor random_ids(std::int64_t tokens, std::int64_t experts, std::int64_t chosen) {
  return at::rand({tokens, experts}).argsort(/*stable=*/false, 1).narrow(1, 0, chosen).contiguous();
}

/// About a quarter of the slots goes nowhere.
at::Tensor with_dropped(const at::Tensor& ids_TK) {
  return ids_TK.masked_fill(at::rand(ids_TK.sizes()) < 0.25, -1);
}

/// Whole numbers, whose sums are exact in bfloat16 too.
at::Tensor integers(at::IntArrayRef sizes, at::ScalarType dtype = at::kFloat) {
  return at::randint(-3, 4, sizes).to(dtype);
}

struct Out {
  at::Tensor y, dx, dweights;
};

/// Every expert e maps x to (e + 1) x, so that rows that come to a wrong expert show.
Out through_experts(const at::Tensor& x_TD, const at::Tensor& ids, const at::Tensor& weights_TK,
                    std::int64_t experts, const at::Tensor& dy) {
  const auto exchange = make_local_exchange(experts);
  auto x = x_TD.clone().requires_grad_(), weights = weights_TK.clone().requires_grad_();
  const auto rows = exchange->dispatch(x, ids);
  auto scale = at::empty({rows.x_MD.size(0), 1}, x.options());
  for (std::int64_t e = 0; e < experts; ++e) {
    const auto begin = rows.parts.front()[static_cast<std::size_t>(e)],
               end = rows.parts.front()[static_cast<std::size_t>(e) + 1];
    scale.narrow(0, begin, end - begin).fill_(e + 1);
  }
  const auto y = exchange->combine(rows.x_MD * scale, weights, rows);
  y.backward(dy);
  return {y.detach(), x.grad(), weights.grad()};
}

}  // namespace

TEST_CASE("slots are sorted by expert and keep their order inside one", "[models]") {
  // Two ranks' tokens of three and two, four experts.
  const auto first = at::tensor({0, 2, 3, 1, 2, 3}, at::kLong).view({3, 2});
  const auto sorted = sort_by_expert(first, 4);
  CHECK(sorted.row_offsets == std::vector<std::int64_t>{0, 1, 2, 4, 6});
  CHECK(sorted.row_of_TK.flatten().argsort().equal(at::tensor({0, 3, 1, 4, 2, 5}, at::kLong)));
  const auto second = sort_by_expert(at::tensor({1, 0, 2, 0}, at::kLong).view({2, 2}), 4);
  CHECK(second.row_offsets == std::vector<std::int64_t>{0, 2, 3, 4, 4});
  CHECK(second.row_of_TK.flatten().argsort().equal(at::tensor({1, 3, 0, 2}, at::kLong)));
  CHECK_THROWS_AS(sort_by_expert(at::full({1, 1}, 4, at::kLong), 4), c10::ValueError);
  CHECK_THROWS_AS(sort_by_expert(at::full({1, 1}, -2, at::kLong), 4), c10::ValueError);
}

TEST_CASE("a slot that goes nowhere has no row", "[models]") {
  const auto sorted = sort_by_expert(at::tensor({0, -1, -1, -1, 2, 0}, at::kLong).view({3, 2}), 3);
  CHECK(sorted.row_offsets == std::vector<std::int64_t>{0, 2, 2, 3});
  CHECK(sorted.row_of_TK.flatten().equal(at::tensor({0, -1, -1, -1, 2, 1}, at::kLong)));
}

TEST_CASE("experts that do nothing give back the token times the sum of weights", "[models]") {
  at::manual_seed(0);
  const std::int64_t tokens = GENERATE(0, 1, 7, 300), size = GENERATE(1, 7, 64);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const auto exchange = make_local_exchange(9);
  const auto x = integers({tokens, size}, dtype);
  const auto rows = exchange->dispatch(x, random_ids(tokens, 9, 4));
  CHECK(rows.x_MD.size(0) == tokens * 4);
  const auto y = exchange->combine(rows.x_MD, at::full({tokens, 4}, 0.25), rows);
  CHECK(y.scalar_type() == dtype);
  CHECK(y.equal(x));
}

TEST_CASE("tokens meet their experts, forward and backward, as in plain operations", "[models]") {
  at::manual_seed(1);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const std::int64_t tokens = 65, experts = 6, chosen = 3, size = 37;
  const bool drops = GENERATE(false, true);
  auto ids = random_ids(tokens, experts, chosen);
  if (drops) ids = with_dropped(ids);
  const auto x = integers({tokens, size}, dtype), dy = integers({tokens, size}, dtype);
  const auto weights = integers({tokens, chosen});
  const auto out = through_experts(x, ids, weights, experts, dy);

  auto plain_x = x.to(at::kDouble).requires_grad_();
  auto plain_w = weights.to(at::kDouble).requires_grad_();
  const auto plain_y = ((ids + 1) * plain_w).sum(1, true) * plain_x;
  plain_y.backward(dy.to(at::kDouble));
  // Integers: bfloat16 rounds each answer once.
  const double tolerance = dtype == at::kFloat ? 0 : 8e-3;
  CHECK(at::allclose(out.y.to(at::kDouble), plain_y.detach(), tolerance, tolerance));
  CHECK(at::allclose(out.dweights.to(at::kDouble), plain_w.grad(), 2 * tolerance, tolerance));
  if (dtype == at::kFloat) CHECK(out.dx.to(at::kDouble).equal(plain_x.grad()));
}

TEST_CASE("the gradients of both directions are central differences", "[models]") {
  at::manual_seed(2);
  // Both maps are linear in each argument, so that differences of whole steps are exact.
  const auto slots = sort_by_expert(random_ids(4, 3, 2), 3);
  const auto x = integers({4, 5}), dcopies = integers({8, 5});
  const auto rows = integers({8, 5}), weights = integers({4, 2}), dy = integers({4, 5});
  const auto slope = [](at::Tensor value, std::int64_t i, const auto& f) {
    auto up = value.clone(), down = value.clone();
    up.view(-1)[i] += 1;
    down.view(-1)[i] -= 1;
    return (f(up) - f(down)).template item<float>() / 2;
  };
  auto leaf_x = x.clone().requires_grad_();
  copy_tokens(leaf_x, slots).backward(dcopies);
  for (std::int64_t i = 0; i < x.numel(); ++i)
    CHECK(leaf_x.grad().view(-1)[i].item<float>() == slope(x, i, [&](const at::Tensor& at_x) {
            return (copy_tokens(at_x, slots) * dcopies).sum();
          }));
  auto leaf_rows = rows.clone().requires_grad_(), leaf_w = weights.clone().requires_grad_();
  sum_copies(leaf_rows, leaf_w, slots).backward(dy);
  for (std::int64_t i = 0; i < rows.numel(); ++i)
    CHECK(leaf_rows.grad().view(-1)[i].item<float>() == slope(rows, i, [&](const at::Tensor& r) {
            return (sum_copies(r, weights, slots) * dy).sum();
          }));
  for (std::int64_t i = 0; i < weights.numel(); ++i)
    CHECK(leaf_w.grad().view(-1)[i].item<float>() == slope(weights, i, [&](const at::Tensor& w) {
            return (sum_copies(rows, w, slots) * dy).sum();
          }));
}

TEST_CASE("the kernels equal plain operations", "[models]") {
  at::manual_seed(3);
  const std::int64_t size = GENERATE(1, 15, 16, 130);
  const bool drops = GENERATE(false, true);
  const auto ids = random_ids(70, 8, 2);
  const auto slots = sort_by_expert(drops ? with_dropped(ids) : ids, 8);
  const auto num_rows = slots.row_offsets.back();
  CHECK((num_rows < 140) == drops);
  const auto x = at::randn({70, size}), rows = at::randn({num_rows, size});
  const auto weights = at::rand({70, 2});
  using namespace kernels;
  CHECK(kernels::copy_tokens(x, slots.row_of_TK, num_rows)
            .equal(plain::copy_tokens(x, slots.row_of_TK, num_rows)));
  CHECK(at::allclose(kernels::sum_copies(rows, slots.row_of_TK, weights),
                     plain::sum_copies(rows, slots.row_of_TK, weights), 1e-5, 1e-6));
  auto r = rows.to(at::kDouble).requires_grad_(), w = weights.to(at::kDouble).requires_grad_();
  plain::sum_copies(r, slots.row_of_TK, w).backward(x.to(at::kDouble));
  const auto [drows, dweights] = sum_copies_backward(x, rows, slots.row_of_TK, weights);
  CHECK(at::allclose(drows.to(at::kDouble), r.grad(), 1e-5, 1e-6));
  CHECK(at::allclose(dweights.to(at::kDouble), w.grad(), 1e-4, 1e-5));
}

TEST_CASE("runs and other numbers of threads give the same bits", "[models]") {
  at::manual_seed(4);
  const auto ids = random_ids(900, 8, 3);
  const auto x = at::randn({900, 96}), dy = at::randn({900, 96});
  const auto weights = at::rand({900, 3});
  const auto threads = at::get_num_threads();
  const auto first = through_experts(x, ids, weights, 8, dy);
  at::set_num_threads(1);
  const auto second = through_experts(x, ids, weights, 8, dy);
  at::set_num_threads(threads);
  CHECK(first.y.equal(second.y));
  CHECK(first.dx.equal(second.dx));
  CHECK(first.dweights.equal(second.dweights));
}
