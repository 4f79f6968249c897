// Advantages, correction weights and losses against TRL (scripts/golden/make_grpo_goldens.py).
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/tensor.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <functional>

#include "models/files/safetensors.hpp"
#include "trainer/grpo/advantages.hpp"
#include "trainer/grpo/correction.hpp"
#include "trainer/grpo/entropy_mask.hpp"
#include "trainer/grpo/policy_loss.hpp"

using namespace tailor;
using namespace tailor::trainer;

namespace {

const std::filesystem::path kGolden = std::filesystem::path(TAILOR_GOLDEN) / "grpo";

std::vector<std::int64_t> offsets(const models::SafetensorsFile& file) {
  const auto values = file.read("offsets", at::kLong);
  const auto* first = values.const_data_ptr<std::int64_t>();
  return {first, first + values.numel()};
}

std::vector<RewardColumn> reward_columns(const at::Tensor& rewards_FN) {
  std::vector<RewardColumn> out;
  for (std::int64_t f = 0; f < rewards_FN.size(0); ++f) {
    auto& column = out.emplace_back();
    for (std::int64_t i = 0; i < rewards_FN.size(1); ++i) {
      const auto reward = rewards_FN[f][i].item<double>();
      column.push_back(std::isnan(reward) ? std::nullopt : std::optional(reward));
    }
  }
  return out;
}

at::Tensor logged(const Advantages& found) {
  std::vector<double> out{found.reward.mean, found.reward.deviation, found.frac_reward_zero_std};
  for (const auto& [mean, deviation] : found.functions) {
    out.push_back(mean);
    out.push_back(deviation);
  }
  return at::tensor(out, at::kDouble);
}

struct Scale {
  std::string name;
  ScaleRewards scale;
  RewardAggregation aggregation = RewardAggregation::SumThenNormalize;
};

/// What of a golden case changes beside type and level; the order is the script's.
const std::vector<std::function<void(GrpoConfig&)>> kAdditions{
    [](GrpoConfig&) {},
    [](GrpoConfig& c) { c.delta = 1.5; },
    [](GrpoConfig& c) { c.beta = 0.1; },
    [](GrpoConfig& c) { c.beta = 0.1, c.use_bias_correction_kl = true; },
    [](GrpoConfig& c) { c.importance_sampling_correction = Correction::TokenTruncate; },
    [](GrpoConfig& c) { c.off_policy_mask_threshold = 0.1; },
    [](GrpoConfig& c) { c.top_entropy_quantile = 0.4; },
    [](GrpoConfig& c) {
      c.delta = 1.5, c.beta = 0.1, c.use_bias_correction_kl = true;
      c.importance_sampling_correction = Correction::TokenTruncate;
      c.off_policy_mask_threshold = 0.1, c.top_entropy_quantile = 0.4;
    }};

/// The batch of the file as `config` wants it.
PolicyBatch batch_for(const models::SafetensorsFile& file, const GrpoConfig& config) {
  const auto read = [&](const char* name) { return file.read(name, at::kDouble); };
  PolicyBatch batch{offsets(file)};
  const auto advantages = read("advantages");
  for (std::int64_t i = 0; i < advantages.numel(); ++i)
    batch.advantages.push_back(advantages[i].item<double>());
  batch.mask_S = read("mask");
  batch.logprobs_S = read("logprobs");
  batch.old_S = read("old");
  batch.sampler_S = read("sampler");
  if (config.beta != 0.0) batch.reference_S = read("reference");
  if (config.importance_sampling_correction != Correction::Auto) batch.weights_S = read("weights");
  if (config.top_entropy_quantile < 1.0) {
    const auto entropies_S = read("entropies");
    const auto threshold = entropy_threshold(entropies_S.masked_select(batch.mask_S != 0),
                                             config.top_entropy_quantile);
    batch.policy_mask_S = high_entropy_mask(entropies_S, batch.mask_S, threshold);
  }
  return batch;
}

bool close(const at::Tensor& found, const at::Tensor& expected, double tolerance) {
  return at::allclose(found, expected, tolerance, tolerance, /*equal_nan=*/true);
}

void check_clip_ratios(const PolicySums& sums, const at::Tensor& expected) {
  const auto found = at::tensor({sums.clip_low / sums.num_ratios, sums.clip_high / sums.num_ratios,
                                 sums.clip_low_min, sums.clip_high_max},
                                at::kDouble);
  CHECK(close(found, expected, 1e-6));
}

}  // namespace

TEST_CASE("advantages are TRL's", "[trainer]") {
  const auto file = models::open_safetensors(kGolden / "advantages.safetensors");
  const std::vector<double> weights{1.0, 0.5, 0.25};
  for (const std::string table : {"binary", "mixed", "equal", "holes", "two", "three"}) {
    const auto columns = reward_columns(file->read("rewards." + table, at::kDouble));
    for (const auto& [name, scale, aggregation] :
         {Scale{"group", ScaleRewards::Group}, Scale{"batch", ScaleRewards::Batch},
          Scale{"none", ScaleRewards::None},
          Scale{"normalize_then_sum", ScaleRewards::Group, RewardAggregation::NormalizeThenSum}}) {
      CAPTURE(table, name);
      const auto found = advantages(
          columns, {weights.begin(), weights.begin() + std::ssize(columns)}, 4, scale, aggregation);
      const auto key = table + '.' + name;
      // TRL computes in float32.
      CHECK(close(at::tensor(found.values, at::kDouble), file->read(key, at::kDouble), 1e-6));
      auto expected = file->read(key + ".logged", at::kDouble);
      // Of these it looks at the whole batch's deviation; ours is the share of groups.
      if (name == "batch" || name == "normalize_then_sum") expected[2] = found.frac_reward_zero_std;
      CHECK(close(logged(found), expected, 1e-6));
    }
  }
}

TEST_CASE("correction weights are TRL's", "[trainer]") {
  const auto file = models::open_safetensors(kGolden / "correction.safetensors");
  const auto old = file->read("old", at::kDouble), sampler = file->read("sampler", at::kDouble);
  for (const auto& [name, mode] : std::vector<std::pair<std::string, Correction>>{
           {"token_truncate", Correction::TokenTruncate},
           {"token_mask", Correction::TokenMask},
           {"sequence_truncate", Correction::SequenceTruncate},
           {"sequence_mask", Correction::SequenceMask}}) {
    CAPTURE(name);
    const auto found = correction_weights(mode, offsets(*file), at::ones_like(old), old, sampler,
                                          /*clip_max=*/1.25, /*clip_min=*/0.8);
    const auto expected = file->read(name, at::kDouble);
    CHECK(close(found, expected, 1e-5));  // of differences of float32 log-probabilities
    CHECK((expected - 1.0).abs().max().item<double>() > 0.1);
  }
}

TEST_CASE("losses, gradients and clip ratios are TRL's", "[trainer]") {
  const auto file = models::open_safetensors(kGolden / "losses.safetensors");
  for (const auto& [name, type] :
       std::vector<std::pair<std::string, LossType>>{{"grpo", LossType::Grpo},
                                                     {"dapo", LossType::Dapo},
                                                     {"dr_grpo", LossType::DrGrpo},
                                                     {"bnpo", LossType::Bnpo},
                                                     {"cispo", LossType::Cispo},
                                                     {"sapo", LossType::Sapo},
                                                     {"luspo", LossType::Luspo},
                                                     {"vespo", LossType::Vespo}}) {
    for (const auto level : {RatioLevel::Token, RatioLevel::Sequence}) {
      const auto key = name + (level == RatioLevel::Token ? ".token" : ".sequence");
      const auto expected = file->read(key, at::kDouble);
      const auto expected_logs = file->read(key + ".logged", at::kDouble);
      REQUIRE(expected.size(0) == std::ssize(kAdditions));
      for (std::int64_t a = 0; a < expected.size(0); ++a) {
        CAPTURE(key, a);
        GrpoConfig config;
        config.loss_type = type;
        config.importance_sampling_level = level;
        config.epsilon_high = type == LossType::Cispo ? 1.3 : 0.28;
        kAdditions[static_cast<std::size_t>(a)](config);
        const auto batch = batch_for(*file, config);
        const auto tokens = batch.mask_S.sum().item<double>();
        const Normalizer whole{tokens, static_cast<double>(batch.advantages.size()), 8};
        const auto found = policy_loss(batch, config, whole);
        CHECK(found.loss == Approx(expected[a][0].item<double>()).epsilon(1e-6));
        CHECK(close(found.dlogprobs_S, expected[a].slice(0, 1), 1e-6));
        const auto clips =
            type != LossType::Cispo && type != LossType::Sapo && type != LossType::Vespo;
        if (clips) check_clip_ratios(found.sums, expected_logs[a].slice(0, 1));
        if (config.beta != 0.0 && !config.use_bias_correction_kl)
          CHECK(found.sums.kl / found.sums.tokens ==
                Approx(expected_logs[a][0].item<double>()).epsilon(1e-6));
      }
    }
  }
}
