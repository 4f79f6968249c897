// Model, adapter, loss and optimizer against HF PEFT (scripts/golden/make_peft_goldens.py).
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <functional>
#include <memory>

#include "models/families/causal_lm.hpp"
#include "models/files/safetensors.hpp"
#include "peft/adapter_file.hpp"
#include "trainer/losses/cross_entropy.hpp"
#include "trainer/sft/flat_parameters.hpp"
#include "trainer/sft/optimizer.hpp"

using namespace tailor;
using models::kernels::Arithmetic;

namespace {

const std::filesystem::path kGolden = TAILOR_GOLDEN;

std::unique_ptr<models::CausalLM> load(const std::string& name) {
  return models::load_causal_lm(models::open_pretrained(kGolden / name), at::kFloat,
                                Arithmetic::Float32);
}

/// A tiny model with the adapter that PEFT saved, and what PEFT computed.
struct Setting {
  explicit Setting(const std::string& name)
      : golden(models::open_safetensors(kGolden / "peft" / name / "golden.safetensors")),
        model(load("tiny_" + name)) {
    const auto files = peft::read_adapter(kGolden / "peft" / name);
    adapter = std::make_unique<peft::LoraAdapter>(*model, files.config, /*seed=*/0);
    peft::load_factors(files, *adapter);
    const auto ids = golden->read("input_ids", at::kLong);
    const auto labels = golden->read("labels", at::kLong);
    const auto offsets = golden->read("document_offsets", at::kLong);
    for (std::int64_t d = 0; d + 1 < offsets.numel(); ++d) {
      trainer::Example example;
      for (auto t = offsets[d].item<std::int64_t>(); t < offsets[d + 1].item<std::int64_t>(); ++t) {
        example.ids.push_back(ids[t].item<std::int64_t>());
        example.labels.push_back(labels[t].item<std::int64_t>());
      }
      documents.push_back(std::move(example));
    }
    std::vector<const trainer::Example*> rows;
    for (const auto& document : documents) rows.push_back(&document);
    batch = trainer::make_batch(rows);
  }

  /// The largest difference of a factor's tensor from `kind`.<key> of the golden file.
  double largest_difference(const std::string& kind,
                            const std::function<at::Tensor(const at::Tensor&)>& of) const {
    double largest = 0.0;
    const auto compare = [&](const std::string& key, const at::Tensor& found) {
      const auto expected = golden->read(kind + '.' + key, at::kFloat);
      largest = std::max(largest, (found - expected).abs().max().item<double>());
    };
    for (const auto& trainable : adapter->trainables()) {
      const auto found = of(trainable.value);
      if (trainable.kind == peft::Trainable::Kind::Single) {
        compare(trainable.keys.front(), found);
        continue;
      }
      for (std::size_t e = 0; e < trainable.keys.size(); ++e)
        compare(trainable.keys[e], found.select(0, static_cast<std::int64_t>(e)));
    }
    return largest;
  }

  at::Tensor mean_loss() const {
    const auto hidden_TD = model->hidden_states(batch);
    const auto summed = trainer::summed_cross_entropy(*model, hidden_TD, batch.targets_T);
    return summed.loss / static_cast<double>(batch.num_supervised);
  }

  std::shared_ptr<const models::SafetensorsFile> golden;
  std::unique_ptr<models::CausalLM> model;
  std::unique_ptr<peft::LoraAdapter> adapter;
  std::vector<trainer::Example> documents;
  trainer::LabelledBatch batch;
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
