#include "trainer/sft/optimizer.hpp"

#include "trainer/parallel/l2_norm.hpp"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <catch2/catch.hpp>

#include "models/files/safetensors.hpp"

namespace tailor::trainer {
namespace {

FlatParameters::Named two_parameters() {
  return {{"a", at::randn({3, 4}).set_requires_grad(true)},
          {"b", at::randn({5}).set_requires_grad(true)}};
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

}  // namespace

TEST_CASE("flat parameters keep their values and follow the flat tensor") {
  auto given = two_parameters();
  const auto before = given[0].second.detach().clone();
  FlatParameters trainable(given);
  CHECK(at::equal(given[0].second, before));
  CHECK(trainable.values().numel() == 17);
  trainable.values().add_(1.0);
  CHECK(at::equal(given[0].second, before + 1.0));
}

TEST_CASE("backward adds into the flat gradient") {
  auto given = two_parameters();
  FlatParameters trainable(given);
  (given[0].second * 2.0).sum().backward();
  (given[1].second * 3.0).sum().backward();
  (given[1].second * 1.0).sum().backward();
  const auto views = trainable.views(trainable.gradients());
  CHECK(at::equal(views[0].second, at::full({3, 4}, 2.0)));
  CHECK(at::equal(views[1].second, at::full({5}, 4.0)));
  CHECK(views[1].first == "b");
}

TEST_CASE("a parameter of another dtype than float32 is refused by name") {
  FlatParameters::Named given{{"narrow", at::zeros({2}, at::kBFloat16)}};
  CHECK_THROWS_WITH(FlatParameters(given), Catch::Contains("narrow"));
}

TEST_CASE("the norm does not depend on the number of threads") {
  const auto flat = at::randn({300'001});
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const double one = l2_norm(flat);
  at::set_num_threads(2);
  CHECK(l2_norm(flat) == one);
  at::set_num_threads(threads);
  CHECK(one == Approx(flat.to(at::kDouble).norm().item<double>()).epsilon(1e-12));
}

TEST_CASE("AdamW in one pass agrees with tensor operations") {
  FlatParameters trainable({{"p", at::randn({100'003}).set_requires_grad(true)}});
  const AdamWConfig config{.weight_decay = 0.1};
  AdamW optimizer(trainable, config);
  auto value = trainable.values().clone();
  auto first = at::zeros_like(value), second = at::zeros_like(value);
  for (std::int64_t step = 1; step <= 5; ++step) {
    trainable.gradients().copy_(at::randn({100'003}));
    adamw_reference(config, step, 1e-2, trainable.gradients() * 0.5, value, first, second);
    optimizer.update(trainable, 1e-2, 0.5);
    CHECK(optimizer.num_updates() == step);
  }
  CHECK(largest_difference(trainable.values(), value) < 1e-6);
  CHECK(largest_difference(optimizer.first_moment(), first) < 1e-6);
  CHECK(largest_difference(optimizer.second_moment(), second) < 1e-6);
}

TEST_CASE("twenty steps with clipping give torch.optim.AdamW's values") {
  const auto golden = models::open_safetensors(std::string(TAILOR_GOLDEN) + "/adamw.safetensors");
  const auto read = [&](const char* name) { return golden->read(name, at::kFloat); };
  FlatParameters trainable({{"p", read("initial").set_requires_grad(true)}});
  AdamW optimizer(trainable, {.weight_decay = 0.1});
  const auto gradients = read("gradients"), values = read("values"), norms = read("norms");
  for (std::int64_t step = 0; step < gradients.size(0); ++step) {
    CAPTURE(step);
    trainable.gradients().copy_(gradients[step]);
    const double norm = l2_norm(trainable.gradients());
    CHECK(norm == Approx(norms[step].item<double>()).epsilon(1e-6));
    optimizer.update(trainable, 1e-2, std::min(1.0, 1.0 / (norm + 1e-6)));
    CHECK(largest_difference(trainable.values(), values[step]) < 1e-6);
  }
  CHECK(at::allclose(optimizer.first_moment(), read("exp_avg"), 1e-5, 1e-7));
  CHECK(at::allclose(optimizer.second_moment(), read("exp_avg_sq"), 1e-5, 1e-9));
}

TEST_CASE("an optimizer that is restored goes on bit for bit") {
  const auto start = at::randn({1000});
  const auto gradient = at::randn({1000});
  FlatParameters straight({{"p", start.clone().set_requires_grad(true)}});
  AdamW first(straight, {});
  straight.gradients().copy_(gradient);
  for (int step = 0; step < 3; ++step) first.update(straight, 1e-3);

  FlatParameters resumed({{"p", straight.values().clone().set_requires_grad(true)}});
  AdamW second(resumed, {});
  second.restore(first.num_updates(), first.first_moment(), first.second_moment());
  resumed.gradients().copy_(gradient);
  first.update(straight, 1e-3);
  second.update(resumed, 1e-3);
  CHECK(at::equal(straight.values(), resumed.values()));
  CHECK_THROWS_AS(second.restore(1, at::zeros({2}), at::zeros({2})), c10::ValueError);
}

}  // namespace tailor::trainer
