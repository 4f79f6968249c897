#include "trainer/parallel/gradient_sync.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "tests/support/on_ranks.hpp"

namespace tailor::trainer {
namespace {

using distributed::Group;

constexpr int kRanks = 3, kLayers = 4;

/// A chain y = ((x v_0) v_1) ..., whose gradients are views of one flat tensor.
struct Chain {
  std::vector<at::Tensor> values;
  at::Tensor gradients = at::zeros({kLayers * 2});

  Chain() {
    for (std::int64_t i = 0; i < kLayers; ++i) {
      values.push_back(at::full({2}, 2.0, at::kFloat).set_requires_grad(true));
      values.back().mutable_grad() = gradients.narrow(0, 2 * i, 2);
    }
  }
  std::vector<peft::Trainable> trainables() const {
    std::vector<peft::Trainable> out;
    for (std::size_t i = 0; i < values.size(); ++i)
      out.push_back({.name = "model.layers." + std::to_string(i) + ".w", .value = values[i]});
    return out;
  }
};

/// The output, and in `begun` how many buckets had begun when backward came below layer `watched`.
at::Tensor forward(const Chain& chain, double x, const GradientReduction& reduction, int watched,
                   std::size_t& begun) {
  auto y = at::full({2}, x, at::kFloat);
  for (int i = 0; i < kLayers; ++i) {
    y = y * chain.values[static_cast<std::size_t>(i)];
    if (i + 1 == watched)
      y.register_hook([&](const at::Tensor&) { begun = reduction.num_begun(); });
  }
  return y.sum();
}

TEST_CASE("gradients are summed over ranks while backward still computes") {
  const auto all = distributed::on_ranks(kRanks, [](Group& world) {
    const auto mesh = distributed::make_mesh(world, {.dp = kRanks});
    Chain chain;
    const GradientSync sync(mesh, chain.trainables(), /*bucket_elements=*/1);
    CHECK(sync.buckets().size() == kLayers);
    GradientReduction reduction(sync, chain.values, chain.gradients);
    std::size_t first = 99, second = 99;
    const auto earlier = forward(chain, 1.0, reduction, 2, first);
    reduction.during(/*last=*/false, [&] { earlier.backward(); });
    const auto later = forward(chain, 1.0 + world.rank(), reduction, 2, second);
    reduction.during(/*last=*/true, [&] { later.backward(); });
    CHECK(reduction.num_begun() == kLayers);
    reduction.wait();
    CHECK(first == 0);
    CHECK(second == 2);  // layers 3 and 2
    return chain.gradients;
  });
  // dy/dv = 2^3 x at each place; the sum of x over ranks is 3 of the first and 1 + 2 + 3.
  for (const auto& gradients : all) CHECK(at::equal(gradients, at::full({kLayers * 2}, 72.0)));
}

TEST_CASE(
    "a rank without a backward, and parameters that backward does not reach, add what they have") {
  const auto all = distributed::on_ranks(kRanks, [](Group& world) {
    const auto mesh = distributed::make_mesh(world, {.dp = kRanks});
    Chain chain;
    const GradientSync sync(mesh, chain.trainables(), /*bucket_elements=*/1);
    GradientReduction reduction(sync, chain.values, chain.gradients);
    if (world.rank() == 0) {
      const auto y = chain.values[0] * chain.values[2];
      reduction.during(/*last=*/true, [&] { y.sum().backward(); });
    }
    reduction.wait();
    return chain.gradients;
  });
  const auto expected = at::tensor({2.0F, 2.0F, 0.0F, 0.0F, 2.0F, 2.0F, 0.0F, 0.0F});
  for (const auto& gradients : all) CHECK(at::equal(gradients, expected));
}

TEST_CASE("a bucket holds neighbours of one placement") {
  const auto world = distributed::make_single_group();
  const auto mesh = distributed::make_mesh(*world, {});
  auto trainables = Chain().trainables();
  CHECK(GradientSync(mesh, trainables).buckets().size() == 1);
  CHECK(GradientSync(mesh, trainables, /*bucket_elements=*/3).buckets().size() == 2);
  trainables[1].sharded_dim = 0;
  const GradientSync sync(mesh, trainables);
  REQUIRE(sync.buckets().size() == 3);
  CHECK(sync.buckets()[2].num_elements == 4);
  CHECK(sync.buckets()[2].lowest_layer == 2);
}

}  // namespace
}  // namespace tailor::trainer
