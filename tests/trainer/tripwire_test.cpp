#include "trainer/sft/tripwires.hpp"

#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <catch2/catch.hpp>

#include "trainer/sft/numeric_error.hpp"

namespace tailor::trainer {
namespace {

/// An adapter of one layer with a gradient of its own for B.
struct Adapter {
  explicit Adapter(const at::Tensor& B)
      : trainable({{"q_proj.lora_A.weight", at::randn({2, 3}).set_requires_grad(true)},
                   {"q_proj.lora_B.weight", B.clone().set_requires_grad(true)}}),
        optimizer(trainable, {}) {}

  void step(double gradient_B, double learning_rate, std::int64_t number) {
    const auto views = trainable.views(trainable.gradients());
    views[0].second.fill_(1.0);
    views[1].second.fill_(gradient_B);
    optimizer.update(trainable, learning_rate);
    check_lora_B(number, learning_rate, trainable, optimizer, counts);
  }

  FlatParameters trainable;
  AdamW optimizer;
  GuardCounts counts;
};

}  // namespace

TEST_CASE("a loss above max_loss for patience steps in a row stops the job") {
  TrainConfig config;
  config.max_loss = 5.0;
  config.max_loss_patience = 3;
  GuardCounts counts;
  for (const double loss : {6.0, 6.0, 4.0, 6.0, 6.0}) check_divergence(1, loss, config, counts);
  CHECK_THROWS_WITH(
      check_divergence(6, 6.5, config, counts),
      Catch::Contains("step 6") && Catch::Contains("6.5") && Catch::Contains("train.max_loss 5"));
}

TEST_CASE("without max_loss no loss stops the job") {
  GuardCounts counts;
  for (int step = 1; step < 20; ++step)
    CHECK_NOTHROW(check_divergence(step, 1e9, TrainConfig{}, counts));
}

TEST_CASE("a lora_B that is exactly zero after ten moving steps stops the job") {
  Adapter adapter(at::zeros({4, 2}));
  for (std::int64_t step = 1; step <= 5; ++step) adapter.step(0.0, 0.0, step);  // warm-up: no count
  for (std::int64_t step = 6; step <= 14; ++step) adapter.step(0.0, 0.1, step);
  CHECK_THROWS_AS(adapter.step(0.0, 0.1, 15), NumericError);
}

TEST_CASE("a lora_B that began elsewhere than at zero must have had a gradient too") {
  Adapter adapter(at::full({4, 2}, 0.5));
  for (std::int64_t step = 1; step <= 9; ++step) adapter.step(0.0, 0.1, step);
  CHECK_THROWS_WITH(adapter.step(0.0, 0.1, 10), Catch::Contains("never had a gradient"));
}

TEST_CASE("a lora_B that moves passes for good") {
  Adapter adapter(at::zeros({4, 2}));
  for (std::int64_t step = 1; step <= 12; ++step) CHECK_NOTHROW(adapter.step(0.1, 0.1, step));
  CHECK(adapter.counts.moving_steps == kStepsUntilLoraBMoves);
}

TEST_CASE("a stage that has no lora_B is not stuck") {
  FlatParameters nothing(FlatParameters::Named{});
  AdamW optimizer(nothing, {});
  GuardCounts counts;
  for (std::int64_t step = 1; step <= 12; ++step)
    CHECK_NOTHROW(check_lora_B(step, 0.1, nothing, optimizer, counts));
}

}  // namespace tailor::trainer
