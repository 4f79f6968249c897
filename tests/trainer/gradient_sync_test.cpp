#include "trainer/parallel/gradient_sync.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/on_ranks.hpp"

namespace tailor::trainer {
namespace {

using distributed::Group;

constexpr int kRanks = 3;
constexpr std::int64_t kLayers = 4;

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

/// A rank's step, with a bucket a layer.
struct Step {
  explicit Step(Group& world)
      : mesh(distributed::make_mesh(world, {.dp = world.size()})),
        sync(mesh, chain.trainables(), /*bucket_elements=*/1),
        reduction(sync, chain.values, chain.gradients) {}

  distributed::Mesh mesh;
  Chain chain;
  GradientSync sync;
  GradientReduction reduction;
};

/// What a rank has seen of a step.
struct Seen {
  at::Tensor gradients;
  std::size_t buckets = 0, early = 99, late = 99, begun = 0;
};

/// The output; `begun` is how many buckets had begun when backward came below layer 2.
at::Tensor forward(const Chain& chain, double x, const GradientReduction& reduction,
                   std::size_t& begun) {
  auto y = at::full({2}, x, at::kFloat);
  for (std::size_t i = 0; i < chain.values.size(); ++i) {
    y = y * chain.values[i];
    if (i == 1) y.register_hook([&](const at::Tensor&) { begun = reduction.num_begun(); });
  }
  return y.sum();
}

TEST_CASE("gradients are summed over ranks while the last backward computes") {
  const auto all = distributed::on_ranks(kRanks, [](Group& world) {
    Step step(world);
    Seen seen{.gradients = step.chain.gradients, .buckets = step.sync.buckets().size()};
    const auto first = forward(step.chain, 1.0, step.reduction, seen.early);
    step.reduction.run(/*last=*/false, [&] { first.backward(); });
    const auto second = forward(step.chain, 1.0 + world.rank(), step.reduction, seen.late);
    step.reduction.run(/*last=*/true, [&] { second.backward(); });
    seen.begun = step.reduction.num_begun();
    step.reduction.wait();
    return seen;
  });
  for (const auto& seen : all) {
    CHECK(seen.buckets == std::size_t{kLayers});
    CHECK(seen.early == 0);
    CHECK(seen.late == 2);  // layers 3 and 2
    CHECK(seen.begun == std::size_t{kLayers});
    // 2^3 x at each place; over ranks the x of the first add up to 3, of the second to 1 + 2 + 3.
    CHECK(at::equal(seen.gradients, at::full({kLayers * 2}, 72.0)));
  }
}

TEST_CASE("ranks without a backward and parameters that none reaches add what they have") {
  const auto all = distributed::on_ranks(kRanks, [](Group& world) {
    Step step(world);
    if (world.rank() == 0) {
      const auto y = step.chain.values[0] * step.chain.values[2];
      step.reduction.run(/*last=*/true, [&] { y.sum().backward(); });
    }
    step.reduction.wait();
    return step.chain.gradients;
  });
  const auto expected = at::tensor({2.0F, 2.0F, 0.0F, 0.0F, 2.0F, 2.0F, 0.0F, 0.0F});
  for (const auto& gradients : all) CHECK(at::equal(gradients, expected));
}

TEST_CASE("nothing follows the last backward, and nothing watches behind the reduction") {
  const auto world = distributed::make_single_group();
  const auto mesh = distributed::make_mesh(*world, {});
  Chain chain;
  const GradientSync sync(mesh, chain.trainables());
  {
    GradientReduction reduction(sync, chain.values, chain.gradients);
    reduction.run(/*last=*/true, [] {});
    CHECK_THROWS(reduction.run(/*last=*/true, [] {}));
  }
  const auto watched = distributed::on_ranks(2, [](Group& ranks) {
    const auto two = distributed::make_mesh(ranks, {.dp = 2});
    Chain of_rank;
    const GradientSync over_ranks(two, of_rank.trainables());
    const auto num_watched = [&] {
      return std::ranges::count_if(of_rank.values, [](const auto& value) {
        return torch::autograd::impl::post_acc_grad_hooks(value) != nullptr;
      });
    };
    std::optional<GradientReduction> reduction;
    reduction.emplace(over_ranks, of_rank.values, of_rank.gradients);
    const auto during = num_watched();
    reduction.reset();
    return std::pair(during, num_watched());
  });
  for (const auto& [during, behind] : watched) {
    CHECK(during == kLayers);
    CHECK(behind == 0);
  }
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
