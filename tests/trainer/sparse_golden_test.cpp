// Adapters of sparse families against transformers and HF PEFT
// (scripts/golden/make_sparse_goldens.py and make_peft_goldens.py).
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/accumulate.h>

#include <catch2/catch.hpp>

#include "tests/trainer/peft_golden.hpp"

using namespace tailor;
using tests::PeftGolden;

namespace {

/// Of the largest entry of a tensor. Weights that are off by 2^-22 of themselves move the golden
/// gradients by up to 9.6e-6 (`rounding` in the files); measured 5.3e-6 at most.
constexpr double kGradientBound = 1e-5;

/// Of all entries, those of the golden gradients.
std::int64_t gradient_size(const PeftGolden& setting) {
  std::int64_t size = 0;
  for (const auto& entry : setting.golden->entries())
    if (entry.name.starts_with("gradient.")) size += c10::multiply_integers(entry.shape);
  return size;
}

}  // namespace

TEST_CASE("loss and gradients of attention, experts and routers are those of transformers",
          "[trainer]") {
  const auto name = GENERATE(as<std::string>(), "mixtral", "qwen2_moe", "qwen3_moe", "olmoe",
                             "deepseek_v2", "deepseek_v2_groups", "deepseek_v3");
  CAPTURE(name);
  const PeftGolden setting("sparse", name);
  const auto loss = setting.mean_loss();
  const auto expected = setting.golden->read("loss", at::kFloat).item<double>();
  CHECK(loss.item<double>() == Approx(expected).epsilon(1e-6));
  loss.backward();
  const auto gradient = [](const at::Tensor& value) {
    REQUIRE(value.grad().defined());
    return value.grad();
  };
  CHECK(setting.largest_relative_difference("gradient", gradient) < kGradientBound);
  CHECK(setting.adapter->num_parameters() == gradient_size(setting));  // nothing is left out

  const at::NoGradGuard no_grad;
  setting.adapter->set_enabled(false);
  CHECK(std::abs(setting.mean_loss().item<double>() - expected) > 1e-2);  // it does something
}

TEST_CASE("an adapter that PEFT put onto fused experts gives PEFT's logits", "[trainer]") {
  const auto name = GENERATE(as<std::string>(), "mixtral", "qwen3_moe", "deepseek_v3");
  CAPTURE(name);
  const PeftGolden setting("fused", name);
  const at::NoGradGuard no_grad;
  const auto expected = setting.golden->read("logits", at::kFloat);  // of the first document
  const auto logits = [&] {
    const auto hidden_TD = setting.model->hidden_states(setting.batch);
    return setting.model->lm_head()(hidden_TD.narrow(0, 0, expected.size(0)));
  };
  CHECK((logits() - expected).abs().max().item<double>() < 1e-4);
  CHECK(setting.mean_loss().item<double>() ==
        Approx(setting.golden->read("loss", at::kFloat).item<double>()).epsilon(1e-6));
  setting.adapter->set_enabled(false);
  CHECK((logits() - expected).abs().max().item<double>() > 1e-1);
}
