// Model, adapter, loss and optimizer against HF PEFT (scripts/golden/make_peft_goldens.py).
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <catch2/catch.hpp>

#include "tests/trainer/peft_golden.hpp"
#include "trainer/sft/flat_parameters.hpp"
#include "trainer/sft/optimizer.hpp"

using namespace tailor;

namespace {

struct Setting : tests::PeftGolden {
  explicit Setting(const std::string& name) : PeftGolden("peft", name) {}
};

}  // namespace

TEST_CASE("an adapter saved by PEFT gives PEFT's logits", "[trainer]") {
  const auto name = GENERATE(as<std::string>(), "llama", "qwen2", "qwen3_moe");
  CAPTURE(name);
  const Setting setting(name);
  const at::NoGradGuard no_grad;
  const auto logits = setting.model->lm_head()(setting.model->hidden_states(setting.batch));
  const auto expected = setting.golden->read("logits", at::kFloat);
  CHECK((logits - expected).abs().max().item<double>() < 1e-4);

  setting.adapter->set_enabled(false);
  const auto base = setting.model->lm_head()(setting.model->hidden_states(setting.batch));
  CHECK((base - expected).abs().max().item<double>() > 1e-1);  // the adapter does something
}

TEST_CASE("loss and gradient of every factor equal PEFT's", "[trainer]") {
  const auto name = GENERATE(as<std::string>(), "llama", "qwen2", "qwen3_moe");
  CAPTURE(name);
  const Setting setting(name);
  const auto loss = setting.mean_loss();
  CHECK(loss.item<double>() ==
        Approx(setting.golden->read("loss", at::kFloat).item<double>()).epsilon(1e-6));
  loss.backward();
  CHECK(setting.largest_difference("gradient", [](const at::Tensor& factor) {
    REQUIRE(factor.grad().defined());
    return factor.grad();
  }) < 1e-5);
}

TEST_CASE("20 steps of AdamW end at PEFT's factors", "[trainer]") {
  const auto name = GENERATE(as<std::string>(), "llama", "qwen2");
  CAPTURE(name);
  const Setting setting(name);
  trainer::FlatParameters::Named named;
  for (const auto& layer : setting.adapter->layers()) {
    named.emplace_back(peft::factor_key(layer->path(), 'A'), layer->A());
    named.emplace_back(peft::factor_key(layer->path(), 'B'), layer->B());
  }
  trainer::FlatParameters trainable(named);
  trainer::AdamW optimizer(trainable, {.weight_decay = 0.01});
  const auto losses = setting.golden->read("losses", at::kFloat);
  for (std::int64_t step = 0; step < losses.numel(); ++step) {
    trainable.gradients().zero_();
    const auto loss = setting.mean_loss();
    CHECK(loss.item<double>() == Approx(losses[step].item<double>()).epsilon(1e-5));
    loss.backward();
    optimizer.update(trainable, /*learning_rate=*/1e-3);
  }
  CHECK(setting.largest_difference(
            "trained", [](const at::Tensor& factor) { return factor.detach(); }) < 1e-5);
}
