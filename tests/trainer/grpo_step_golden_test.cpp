// Two GRPO steps over a tiny model against TRL (scripts/golden/make_grpo_goldens.py).
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/tensor.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <memory>

#include "models/families/causal_lm.hpp"
#include "models/files/safetensors.hpp"
#include "peft/adapter_file.hpp"
#include "trainer/grpo/advantages.hpp"
#include "trainer/grpo/policy_loss.hpp"
#include "trainer/losses/cross_entropy.hpp"

using namespace tailor;
using namespace tailor::trainer;

namespace {

const std::filesystem::path kGolden = TAILOR_GOLDEN;
/// Log-probabilities go down to -14, where a unit of float32's last place is 1e-6; measured 1.1e-5.
constexpr double kLogprobBound = 2e-5;

std::vector<std::int64_t> integers(const models::SafetensorsFile& file, const std::string& name) {
  const auto values = file.read(name, at::kLong);
  const auto* first = values.const_data_ptr<std::int64_t>();
  return {first, first + values.numel()};
}

struct Case {
  std::string name;
  GrpoConfig config;
};

std::vector<Case> cases() {
  GrpoConfig dapo, gspo;
  dapo.beta = gspo.beta = 0.1;
  dapo.temperature = 0.7;
  dapo.epsilon_high = 0.28;
  gspo.loss_type = LossType::Grpo;
  gspo.importance_sampling_level = RatioLevel::Sequence;
  gspo.epsilon = 0.02;
  gspo.use_bias_correction_kl = true;
  return {{"step_dapo", dapo}, {"step_gspo", gspo}};
}

/// The model with its adapter, prompts with completions, and what TRL computed.
struct Setting {
  explicit Setting(const Case& which)
      : config(which.config),
        golden(models::open_safetensors(kGolden / "grpo" / (which.name + ".safetensors"))),
        model(models::load_causal_lm(models::open_pretrained(kGolden / "tiny_llama"), at::kFloat,
                                     models::kernels::Arithmetic::Float32)),
        completion_offsets(integers(*golden, "completion_offsets")) {
    const auto files = peft::read_adapter(kGolden / "peft" / "llama");
    adapter = std::make_unique<peft::LoraAdapter>(*model, files.config, /*seed=*/0);
    peft::load_factors(files, *adapter);
    const auto prompts = integers(*golden, "prompt_ids");
    const auto prompt_offsets = integers(*golden, "prompt_offsets");
    const auto completions = integers(*golden, "completion_ids");
    const auto part = [](const std::vector<std::int64_t>& of, std::int64_t begin,
                         std::int64_t end) {
      return std::vector<std::int64_t>(of.begin() + begin, of.begin() + end);
    };
    for (std::size_t i = 0; i < num_completions(); ++i) {
      const auto p = i / 4;
      Example example;
      example.ids = part(prompts, prompt_offsets[p], prompt_offsets[p + 1]);
      example.labels.assign(example.ids.size(), kIgnore);
      const auto completion = part(completions, completion_offsets[i], completion_offsets[i + 1]);
      example.ids.insert(example.ids.end(), completion.begin(), completion.end());
      example.labels.insert(example.labels.end(), completion.begin(), completion.end());
      documents.push_back(std::move(example));
    }
    std::vector<const Example*> pointers;
    for (const auto& document : documents) pointers.push_back(&document);
    batch = make_batch(pointers);
  }

  std::size_t num_completions() const { return completion_offsets.size() - 1; }

  /// Log-probabilities of the completions' tokens, one after the other.
  at::Tensor logprobs() const {
    const auto at_S = (batch.targets_T != kIgnore).nonzero().squeeze(1);
    const auto hidden_SD = model->hidden_states(batch).index_select(0, at_S);
    const auto logits_SV = model->lm_head()(hidden_SD) / config.temperature;
    const auto targets_S = batch.targets_T.index_select(0, at_S);
    return logits_SV.log_softmax(1).gather(1, targets_S.unsqueeze(1)).squeeze(1);
  }

  PolicyBatch policy_batch(const at::Tensor& logprobs_S) const {
    PolicyBatch out{completion_offsets};
    const auto advantages = golden->read("advantages", at::kDouble);
    for (std::int64_t i = 0; i < advantages.numel(); ++i)
      out.advantages.push_back(advantages[i].item<double>());
    out.logprobs_S = logprobs_S;
    out.mask_S = at::ones_like(logprobs_S);
    out.old_S = golden->read("old", at::kFloat);
    out.reference_S = golden->read("reference", at::kFloat);
    return out;
  }

  Normalizer normalizer() const {
    return {static_cast<double>(completion_offsets.back()), static_cast<double>(num_completions()),
            8};
  }

  /// The golden tensor of every factor, and the factor.
  template <typename Function>
  void for_each_factor(const std::string& prefix, const Function& function) const {
    for (const auto& layer : adapter->layers())
      for (const auto& [factor, which] : {std::pair(layer->A(), 'A'), {layer->B(), 'B'}})
        function(golden->read(prefix + peft::factor_key(layer->path(), which), at::kFloat), factor);
  }

  GrpoConfig config;
  std::shared_ptr<const models::SafetensorsFile> golden;
  std::unique_ptr<models::CausalLM> model;
  std::unique_ptr<peft::LoraAdapter> adapter;
  std::vector<std::int64_t> completion_offsets;
  std::vector<Example> documents;
  LabelledBatch batch;
};

double distance(const at::Tensor& found, const at::Tensor& expected) {
  return (found - expected).abs().max().item<double>();
}

}  // namespace

TEST_CASE("log-probabilities, loss and every factor's gradient of a GRPO step are TRL's",
          "[trainer]") {
  for (const auto& which : cases()) {
    const Setting setting(which);
    for (const std::string step : {"0", "1"}) {
      CAPTURE(which.name, step);
      const auto logprobs_S = setting.logprobs();
      CHECK(distance(logprobs_S, setting.golden->read("logprobs." + step, at::kFloat)) <
            kLogprobBound);

      const auto found =
          policy_loss(setting.policy_batch(logprobs_S), setting.config, setting.normalizer());
      CHECK(found.loss ==
            Approx(setting.golden->read("loss." + step, at::kFloat).item<double>()).epsilon(1e-5));
      if (!setting.config.use_bias_correction_kl) {
        const auto kl = setting.golden->read("logged." + step, at::kFloat)[0].item<double>();
        CHECK(found.sums.kl / found.sums.tokens == Approx(kl).epsilon(1e-5));
      }
      if (step == "0")
        CHECK(found.sums.clip_low + found.sums.clip_high == 0.0);
      else
        CHECK(found.sums.clip_low + found.sums.clip_high > 0.0);

      logprobs_S.backward(found.dlogprobs_S);
      setting.for_each_factor("gradient." + step + '.', [](const auto& expected, auto factor) {
        const auto size = expected.abs().max().template item<double>();
        CHECK(distance(factor.grad(), expected) < 1e-5 * size);
        factor.mutable_grad() = at::Tensor();
      });
      const at::NoGradGuard no_grad;
      setting.for_each_factor("trained." + step + '.',
                              [](const auto& trained, auto factor) { factor.copy_(trained); });
    }
  }
}

TEST_CASE("the reference is the model without adapter, and old what it was with it", "[trainer]") {
  for (const auto& which : cases()) {
    CAPTURE(which.name);
    const Setting setting(which);
    const at::NoGradGuard no_grad;
    CHECK(distance(setting.logprobs(), setting.golden->read("old", at::kFloat)) < kLogprobBound);
    setting.adapter->set_enabled(false);
    CHECK(distance(setting.logprobs(), setting.golden->read("reference", at::kFloat)) <
          kLogprobBound);
  }
}

TEST_CASE("the step's advantages follow from its rewards", "[trainer]") {
  const Setting setting(cases().front());
  const auto rewards = setting.golden->read("rewards", at::kDouble);
  RewardColumn column;
  for (std::int64_t i = 0; i < rewards.numel(); ++i) column.push_back(rewards[i].item<double>());
  const auto found = advantages({column}, {1.0}, 4, ScaleRewards::Group);
  CHECK(distance(at::tensor(found.values, at::kDouble),
                 setting.golden->read("advantages", at::kDouble)) < 1e-6);
}
