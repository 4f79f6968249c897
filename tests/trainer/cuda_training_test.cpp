// Steps of training on a GPU against the same on the host.
#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/ones.h>

#include <cmath>
#include <string>
#include <vector>

#include "models/generation/engine.hpp"
#include "peft/dropout.hpp"
#include "tests/support/gpu.hpp"
#include "trainer/parallel/placement.hpp"
#include "trainer/sft/evaluate.hpp"
#include "trainer/sft/step.hpp"

namespace tailor::trainer {
namespace {

using models::kernels::Arithmetic;

struct Run {
  std::unique_ptr<models::CausalLM> model;
  std::unique_ptr<peft::LoraAdapter> adapter;

  Run(const std::string& name, at::ScalarType stored, Arithmetic arithmetic, at::Device device) {
    const auto pretrained = models::open_pretrained(std::filesystem::path(TAILOR_GOLDEN) / name);
    model = models::make_causal_lm(pretrained.config_json, pretrained.config_file);
    models::load_parameters(*model, pretrained, stored, arithmetic, {}, device);
    peft::LoraConfig config;
    config.r = 8;
    adapter = std::make_unique<peft::LoraAdapter>(*model, config, /*seed=*/3);
  }

  std::vector<double> losses(std::int64_t steps) {
    const auto world = distributed::make_single_group();
    const auto mesh = distributed::make_mesh(*world, {});
    const auto trainables = ordered_trainables(*adapter);
    FlatParameters::Named named;
    for (const auto& trainable : trainables) named.emplace_back(trainable.name, trainable.value);
    FlatParameters trainable(named);
    AdamW optimizer(trainable, {});
    const GradientSync sync(mesh, trainables);
    std::vector<Example> documents(2);
    for (std::int64_t t = 0; t < 24; ++t)
      for (auto& document : documents) {
        document.ids.push_back((7 * t + 3 * (&document - documents.data())) % 50 + 2);
        document.labels.push_back(document.ids.back());
      }
    const std::vector<const Example*> rows{&documents[0], &documents[1]};
    std::vector<double> out;
    for (std::int64_t step = 1; step <= steps; ++step)
      out.push_back(sft_step(one_by_one(adapted_loss(*model, *adapter, /*seed=*/1, step)),
                             trainable, optimizer, rows, sync,
                             {.step = step, .learning_rate = 5e-3, .max_grad_norm = 1.0})
                        .loss);
    return out;
  }
};

}  // namespace

TEST_CASE("ten steps on a GPU have the losses that they have on the host", "[trainer]") {
  if (!tests::has_gpu()) return;
  const auto name =
      GENERATE(as<std::string>(), "tiny_llama", "tiny_qwen3", "tiny_qwen3_moe", "tiny_deepseek_v3");
  CAPTURE(name);
  Run host(name, at::kFloat, Arithmetic::Float32, at::kCPU);
  Run gpu(name, at::kFloat, Arithmetic::Float32, at::Device(at::kCUDA, 0));
  const auto expected = host.losses(10), found = gpu.losses(10);
  for (std::size_t i = 0; i < expected.size(); ++i)
    CHECK(found[i] == Approx(expected[i]).epsilon(1e-4));
  CHECK(found.back() < found.front());

  Run in_bf16(name, at::kBFloat16, Arithmetic::BFloat16, at::Device(at::kCUDA, 0));
  const auto rounded = in_bf16.losses(10);
  for (std::size_t i = 0; i < expected.size(); ++i)
    CHECK(rounded[i] == Approx(expected[i]).epsilon(5e-2));
}

TEST_CASE("a GPU writes what the host writes, greedily", "[trainer]") {
  if (!tests::has_gpu()) return;
  const auto write = [](at::Device device) {
    const Run run("tiny_llama", at::kFloat, Arithmetic::Float32, device);
    models::GenerationOptions options;
    options.sampling.temperature = 0;
    return models::generate(*run.model, {{.prompt_ids = {3, 4, 5}, .max_new_tokens = 8}}, options)
        .front()
        .ids;
  };
  CHECK(write(at::Device(at::kCUDA, 0)) == write(at::kCPU));
}

TEST_CASE("dropout on a GPU drops what it drops on the host", "[trainer]") {
  if (!tests::has_gpu()) return;
  const peft::Dropout dropout{
      .p = 0.3, .seed = 5, .stream = 9, .first_token = 4, .first_feature = 12, .num_features = 64};
  auto host = at::ones({40, 20}), gpu = host.to(at::Device(at::kCUDA, 0));
  peft::drop_(host, dropout);
  peft::drop_(gpu, dropout);
  CHECK(at::allclose(gpu.cpu(), host, 0, 0));
}

}  // namespace tailor::trainer
