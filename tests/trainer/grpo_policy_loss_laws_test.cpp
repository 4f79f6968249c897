// What holds of every policy loss, whatever its values.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/count_nonzero.h>
#include <ATen/ops/equal.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <functional>

#include "grpo_batch.hpp"
#include "trainer/grpo/policy_loss.hpp"

using namespace tailor::trainer;

namespace {

struct Variant {
  std::string name;
  GrpoConfig config;
};

/// Every loss at both levels, with everything that may be added.
std::vector<Variant> variants() {
  std::vector<Variant> out;
  const std::vector<std::pair<std::string, LossType>> types{
      {"grpo", LossType::Grpo},     {"dapo", LossType::Dapo},   {"dr_grpo", LossType::DrGrpo},
      {"bnpo", LossType::Bnpo},     {"cispo", LossType::Cispo}, {"sapo", LossType::Sapo},
      {"minirl", LossType::MiniRl}, {"luspo", LossType::Luspo}, {"vespo", LossType::Vespo}};
  const std::vector<std::pair<std::string, std::function<void(GrpoConfig&)>>> additions{
      {"", [](GrpoConfig&) {}},
      {" delta", [](GrpoConfig& c) { c.delta = 1.5; }},
      {" small delta", [](GrpoConfig& c) { c.delta = 1.1; }},
      {" dual clip", [](GrpoConfig& c) { c.dual_clip = 3.0; }},
      {" both", [](GrpoConfig& c) { c.delta = 3.5, c.dual_clip = 3.0; }},
      {" off-policy mask", [](GrpoConfig& c) { c.off_policy_mask_threshold = -0.2; }},
      {" k1", [](GrpoConfig& c) { c.beta = 0.1, c.kl_estimator = KlEstimator::K1; }},
      {" k2", [](GrpoConfig& c) { c.beta = 0.1, c.kl_estimator = KlEstimator::K2; }},
      {" k3", [](GrpoConfig& c) { c.beta = 0.1; }},
      {" k1+", [](GrpoConfig& c) { c.beta = 0.1, c.kl_estimator = KlEstimator::K1Plus; }},
      {" k3+", [](GrpoConfig& c) { c.beta = 0.1, c.kl_estimator = KlEstimator::K3Plus; }},
      {" r k3", [](GrpoConfig& c) { c.beta = 0.1, c.use_bias_correction_kl = true; }},
      {" kl in reward", [](GrpoConfig& c) { c.beta = 0.1, c.kl_in = KlPlace::Reward; }}};
  for (const auto& [type_name, type] : types)
    for (const auto& [addition, change] : additions)
      for (const auto level : {RatioLevel::Token, RatioLevel::Sequence}) {
        auto config = settings(type);
        config.importance_sampling_level = level;
        change(config);
        out.push_back(
            {type_name + addition + (level == RatioLevel::Token ? "" : " sequence"), config});
      }
  return out;
}

/// The batch with correction weights and an entropy mask.
PolicyBatch weighted_batch() {
  auto batch = two_responses();
  batch.weights_S = rows({1.02, .97, 2, 1.01, .4, 1.05, 1.5, 1});
  batch.policy_mask_S = rows({1, 0, 1, 1, 1, 1, 0, 0});
  return batch;
}

/// Ratios of whole responses, and what is decided of whole responses.
bool couples_tokens(const GrpoConfig& config) {
  return config.importance_sampling_level == RatioLevel::Sequence ||
         config.loss_type == LossType::Vespo || config.off_policy_mask_threshold;
}

/// Whether a token's gradient moves with another token's log-probability.
bool moves_others(const GrpoConfig& config) {
  auto batch = two_responses();
  const auto before = policy_loss(batch, config, kStep).dlogprobs_S;
  batch.logprobs_S = batch.logprobs_S + rows({1, 0, 0, 0, 1, 0, 0, 0});
  const auto after = policy_loss(batch, config, kStep).dlogprobs_S;
  return !at::equal(before.narrow(0, 1, 3), after.narrow(0, 1, 3)) ||
         !at::equal(before.narrow(0, 5, 3), after.narrow(0, 5, 3));
}

}  // namespace

TEST_CASE("an advantage of 0 leaves a response the divergence alone", "[grpo]") {
  for (const auto& [name, config] : variants()) {
    CAPTURE(name);
    auto batch = weighted_batch();
    batch.advantages[1] = 0.0;
    const auto found = policy_loss(batch, config, kStep).dlogprobs_S;
    CHECK(found.narrow(0, 0, 4).count_nonzero().item<std::int64_t>() > 0);
    const bool has_kl = config.beta > 0.0 && config.kl_in == KlPlace::Loss;
    CHECK((found.narrow(0, 4, 4).count_nonzero().item<std::int64_t>() > 0) == has_kl);
  }
}

TEST_CASE("the closed form equals autograd", "[trainer]") {
  for (const auto& [name, config] : variants()) {
    for (const auto& batch : {two_responses(), weighted_batch()}) {
      CAPTURE(name, batch.weights_S.defined());
      const auto found = policy_loss(batch, config, kStep);
      const auto expected = policy_loss_reference(batch, config, kStep);
      CHECK(std::abs(found.loss - expected.loss) < 1e-12);
      CHECK(at::allclose(found.dlogprobs_S, expected.dlogprobs_S, 0, 1e-12));
      CHECK(at::allclose(found.losses_S, expected.losses_S, 0, 1e-12));
    }
  }
}

TEST_CASE("the gradient is the slope of the loss", "[trainer]") {
  constexpr double kStepSize = 1e-6;
  for (const auto& [name, config] : variants()) {
    // Weights that are constant for the gradient move with the log-probability: there the reference
    // is the test.
    const auto type = config.loss_type;
    if (type == LossType::Cispo || type == LossType::MiniRl || type == LossType::Vespo) continue;
    // Of these the value is one estimator's and the gradient another's.
    if (config.kl_estimator == KlEstimator::K1Plus || config.kl_estimator == KlEstimator::K3Plus)
      continue;
    CAPTURE(name);
    const auto batch = weighted_batch();
    const auto gradient = policy_loss(batch, config, kStep).dlogprobs_S;
    for (std::int64_t t = 0; t < 8; ++t) {
      const auto at_distance = [&](double distance) {
        auto moved = batch;
        moved.logprobs_S = batch.logprobs_S.clone();
        moved.logprobs_S[t] += distance;
        return policy_loss(moved, config, kStep).loss;
      };
      const auto slope = (at_distance(kStepSize) - at_distance(-kStepSize)) / (2 * kStepSize);
      CHECK(std::abs(gradient[t].item<double>() - slope) < 1e-8);
    }
  }
}

TEST_CASE("parts of a step add up to it", "[trainer]") {
  for (const auto& [name, config] : variants()) {
    CAPTURE(name);
    const auto whole = weighted_batch();
    const auto expected = policy_loss(whole, config, kStep);
    double loss = 0.0;
    PolicySums sums;
    std::vector<at::Tensor> gradients;
    for (const std::int64_t i : {0, 1}) {
      auto part = whole;
      part.offsets = {0, 4};
      part.advantages = {whole.advantages[static_cast<std::size_t>(i)]};
      for (auto* rows_S : {&part.mask_S, &part.logprobs_S, &part.old_S, &part.reference_S,
                           &part.sampler_S, &part.weights_S, &part.policy_mask_S})
        *rows_S = rows_S->narrow(0, 4 * i, 4);
      const auto found = policy_loss(part, config, kStep);
      loss += found.loss;
      sums += found.sums;
      gradients.push_back(found.dlogprobs_S);
    }
    CHECK(std::abs(loss - expected.loss) < 1e-12);
    CHECK(at::equal(at::cat(gradients), expected.dlogprobs_S));
    CHECK(sums.clip_low == expected.sums.clip_low);
    CHECK(sums.clip_high_max == expected.sums.clip_high_max);
    CHECK(near(sums.kl, expected.sums.kl));
    CHECK(sums.num_dropped == expected.sums.num_dropped);
  }
}

TEST_CASE("what does not count is not looked at", "[trainer]") {
  auto batch = weighted_batch();
  for (const auto& [name, config] : variants()) {
    CAPTURE(name);
    const auto expected = policy_loss(batch, config, kStep);
    auto other = batch;
    for (auto* rows_S : {&other.logprobs_S, &other.old_S, &other.reference_S, &other.sampler_S,
                         &other.weights_S}) {
      *rows_S = rows_S->clone();
      (*rows_S)[7] = std::nan("");
    }
    const auto found = policy_loss(other, config, kStep);
    CHECK(found.loss == expected.loss);
    CHECK(at::equal(found.dlogprobs_S, expected.dlogprobs_S));
  }
}

TEST_CASE("a response without tokens that count is nothing", "[trainer]") {
  auto batch = two_responses();
  batch.mask_S = rows({1, 1, 1, 1, 0, 0, 0, 0});
  for (const auto& [name, config] : variants()) {
    CAPTURE(name);
    const auto found = policy_loss(batch, config, kStep);
    CHECK(std::isfinite(found.loss));
    CHECK(found.dlogprobs_S.narrow(0, 4, 4).abs().sum().item<double>() == 0.0);
    CHECK(found.sums.sequences == 1.0);
  }
}

TEST_CASE("ratios far away stay finite and are counted", "[trainer]") {
  auto batch = two_responses();
  batch.logprobs_S = batch.old_S + rows({300, -300, 0, 0, 300, -300, 0, 0});
  for (const auto& [name, config] : variants()) {
    CAPTURE(name);
    const auto found = policy_loss(batch, config, kStep);
    CHECK(std::isfinite(found.loss));
    CHECK(found.dlogprobs_S.isfinite().all().item<bool>());
    if (config.importance_sampling_level == RatioLevel::Token) CHECK(found.sums.num_clamped == 4.0);
    const auto expected = policy_loss_reference(batch, config, kStep);
    CHECK(at::allclose(found.dlogprobs_S, expected.dlogprobs_S, 1e-10, 1e-10));
  }
}

TEST_CASE("a token's gradient needs no other token's, where nothing is a response's", "[trainer]") {
  for (const auto& [name, config] : variants()) {
    if (couples_tokens(config)) continue;
    CAPTURE(name);
    CHECK_FALSE(moves_others(config));
  }
  CHECK(moves_others(sequence_level(LossType::Luspo)));
  CHECK(moves_others(settings(LossType::Vespo)));
  CHECK_FALSE(moves_others(settings(LossType::Dapo)));
}
