#include "trainer/grpo/correction.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <catch2/catch.hpp>
#include <cmath>

#include "grpo_batch.hpp"
#include "trainer/grpo/entropy_mask.hpp"
#include "trainer/grpo/policy_loss.hpp"
#include "trainer/grpo/reject.hpp"

using namespace tailor::trainer;

namespace {

at::Tensor weights(const PolicyBatch& batch, Correction correction, double clip_max,
                   std::optional<double> clip_min = {}) {
  return correction_weights(correction, batch.offsets, batch.mask_S, batch.old_S, batch.sampler_S,
                            clip_max, clip_min);
}

double dapo_loss(const PolicyBatch& batch, double beta = 0.0) {
  GrpoConfig config;
  config.epsilon_high = 0.28;
  config.beta = beta;
  return policy_loss(batch, config, {kTokens, kSequences, kMaxLength}).loss;
}

MismatchSums mismatch(const PolicyBatch& batch, const at::Tensor& applied = {}) {
  return mismatch_sums(batch.offsets, batch.mask_S, batch.old_S, batch.sampler_S, applied);
}

}  // namespace

TEST_CASE("correction weights have the published values", "[trainer]") {
  const auto batch = two_responses();
  const auto rho = rows({1.02020134, .97044553, 2.22554093, 1.01005017, .40656966, 1.05127110,
                         1.49182470, 1});  // 1 where the mask is 0
  const auto close = [](const at::Tensor& found, const at::Tensor& expected) {
    return at::allclose(found, expected, 0, 1e-8);
  };
  CHECK(close(weights(batch, Correction::TokenTruncate, 100), rho));
  CHECK(close(weights(batch, Correction::TokenTruncate, 2), rho.clamp_max(2)));
  CHECK(close(weights(batch, Correction::TokenMask, 2, 0.5), rho * rows({1, 1, 0, 1, 0, 1, 1, 1})));
  const auto products =
      rows({2.22554093, 2.22554093, 2.22554093, 2.22554093, .63762815, .63762815, .63762815, 1});
  CHECK(close(weights(batch, Correction::SequenceTruncate, 2), products.clamp_max(2)));
  CHECK(close(weights(batch, Correction::SequenceMask, 3), products));
  CHECK_FALSE(weights(batch, Correction::Off, 2).defined());
  CHECK_FALSE(weights(batch, Correction::Bypass, 2).defined());
  CHECK_THROWS_AS(weights(batch, Correction::Auto, 2), std::invalid_argument);
}

TEST_CASE("corrected losses have the published values", "[trainer]") {
  struct Row {
    Correction correction;
    double clip_max;
    std::optional<double> clip_min;
    double beta, expected;
  };
  const std::vector<Row> table{{Correction::TokenTruncate, 2, {}, 0, -.45964531},
                               {Correction::TokenMask, 2, .5, 0, -.25122381},
                               {Correction::SequenceTruncate, 2, {}, 0, -1.02535379},
                               {Correction::SequenceMask, 3, {}, 0, -1.18635026},
                               {Correction::SequenceMask, 2, {}, 0, .40229365},
                               {Correction::TokenTruncate, 2, {}, .1, -.44651835}};
  for (const auto& row : table) {
    auto batch = two_responses();
    batch.weights_S = weights(batch, row.correction, row.clip_max, row.clip_min);
    CAPTURE(row.expected);
    CHECK(near(dapo_loss(batch, row.beta), row.expected));
  }
  auto bypass = two_responses();
  bypass.old_S = bypass.sampler_S;
  CHECK(near(dapo_loss(bypass), -.30041303));
}

TEST_CASE("what is out of bounds leaves the loss and its denominators", "[trainer]") {
  const auto batch = two_responses();
  const auto kept = [&](const std::vector<RejectRule>& rules) {
    return kept_mask(rules, batch.offsets, batch.mask_S, batch.old_S, batch.sampler_S);
  };
  const auto both = rows({1, 1, 1, 1, 1, 1, 1, 0}), first = rows({1, 1, 1, 1, 0, 0, 0, 0}),
             second = rows({0, 0, 0, 0, 1, 1, 1, 0}), none = at::zeros_like(both);
  struct Row {
    RejectRule rule;
    at::Tensor expected;
  };
  // d is .02, -.03, .8, .01 and -.9, .05, .4; k2 of the third token .32, of the fifth .405; k3
  // .42554093 and .30656966. Sums of d .8 and -.45; means of k3 .10655949 and .13322182.
  const std::vector<Row> table{
      {{RejectBy::TokenK1, 2.0, 0.5}, rows({1, 1, 0, 1, 0, 1, 1, 0})},
      {{RejectBy::TokenK1, 2.3}, rows({1, 1, 1, 1, 0, 1, 1, 0})},  // 1 / 2.3 = 0.43 > exp(-.9)
      {{RejectBy::TokenK1, 2.3, 0.4}, both},
      {{RejectBy::TokenK2, 0.33}, rows({1, 1, 1, 1, 0, 1, 1, 0})},
      {{RejectBy::TokenK3, 0.31}, rows({1, 1, 0, 1, 1, 1, 1, 0})},
      {{RejectBy::SequenceSumK1, 2.2}, second},
      {{RejectBy::SequenceSumK1, 2.3, 0.7}, first},
      {{RejectBy::SequenceMeanK1, 1.2}, second},  // exp(.2) = 1.2214, exp(-.15) = .8607
      {{RejectBy::SequenceMeanK1, 1.3, 0.87}, first},
      {{RejectBy::SequenceSumK2, 0.4}, first},   // .3207, .48625
      {{RejectBy::SequenceMeanK2, 0.1}, first},  // .080175, .16208
      {{RejectBy::SequenceMaxK2, 0.33}, first},
      {{RejectBy::SequenceSumK3, 0.41}, second},  // .42623797, .39966546
      {{RejectBy::SequenceMeanK3, 0.12}, first},
      {{RejectBy::SequenceMeanK3, 0.1065}, none},
      {{RejectBy::SequenceMaxK3, 0.31}, second}};
  for (const auto& row : table) {
    CAPTURE(static_cast<int>(row.rule.by), row.rule.max);
    CHECK(at::equal(kept({row.rule}), row.expected));
  }
  CHECK(at::equal(kept({}), both));
  CHECK(at::equal(kept({{RejectBy::TokenK1, 2.3}, {RejectBy::SequenceSumK1, 2.2}}),
                  rows({0, 0, 0, 0, 0, 1, 1, 0})));

  // The clipped losses of the tokens that stay, over their number; no divergence of the others.
  auto rejected = two_responses();
  rejected.mask_S = kept({{RejectBy::TokenK1, 2.0, 0.5}});
  GrpoConfig config;
  config.epsilon_high = 0.28;
  CHECK(near(policy_loss(rejected, config, {5, kSequences, kMaxLength}).loss,
             (-1.536 - .93456094 - 1.2 + .64 + .84101688) / 5));
  rejected.mask_S = first;
  config.beta = 0.1;
  const double k3[] = {std::exp(-.25) + .25 - 1, std::exp(.15) - .15 - 1, std::exp(.1) - .1 - 1, 0};
  CHECK(near(policy_loss(rejected, config, {4, kSequences, kMaxLength}).loss,
             (-1.536 - .93456094 - 1.32620510 - 1.2 + .1 * (k3[0] + k3[1] + k3[2])) / 4));
}

TEST_CASE("the mismatch has the published values", "[trainer]") {
  const auto batch = two_responses();
  const auto found = mismatch(batch);
  CHECK(near(found.mean_k1(), -.05));
  CHECK(near(found.mean_k2(), .11527857));
  CHECK(near(found.mean_k3(), .11798620));
  CHECK(near(found.f2(), .28571429));
  CHECK(near(found.mean_ratio(), 1.16798620));
  CHECK(near(found.ratio_max, 2.22554093));
  CHECK(near(found.chi2_token(), .63597426));
  CHECK(near(found.chi2_sequence(), 1.67980104));
  CHECK(near(found.mean_perplexity_ratio(), .99028250));
  CHECK(near(found.difference_max, .9));
  CHECK(near(found.mean_difference(), 2.21 / 7));
  CHECK(found.ess() == 1.0);
  const auto truncated = weights(batch, Correction::TokenTruncate, 2);
  CHECK(near(mismatch(batch, truncated).ess(), .86007571));
  const auto masked = weights(batch, Correction::TokenMask, 2, .5);
  CHECK(near(mismatch(batch, masked).ess(), .69322299));
}

TEST_CASE("the mismatch of parts adds up to that of the whole", "[trainer]") {
  const auto whole = two_responses();
  MismatchSums sum;
  const std::vector<double> k1{-.8, .45}, k3{.10655949, .13322182};
  for (const std::int64_t i : {0, 1}) {
    const auto part = [&](const at::Tensor& x) { return x.narrow(0, 4 * i, 4); };
    const auto of_response =
        mismatch_sums({0, 4}, part(whole.mask_S), part(whole.old_S), part(whole.sampler_S));
    CHECK(near(of_response.k1, k1[static_cast<std::size_t>(i)]));
    CHECK(near(of_response.mean_k3(), k3[static_cast<std::size_t>(i)]));
    sum += of_response;
  }
  const auto expected = mismatch(whole);
  CHECK(near(sum.mean_k3(), expected.mean_k3()));
  CHECK(near(sum.chi2_sequence(), expected.chi2_sequence()));
  CHECK(near(sum.ratio_max, expected.ratio_max));
  CHECK(near(sum.ess(), expected.ess()));
}

TEST_CASE("a sampler that agrees needs no correction", "[trainer]") {
  auto batch = two_responses();
  batch.sampler_S = batch.old_S;
  const auto correction = GENERATE(Correction::TokenTruncate, Correction::TokenMask,
                                   Correction::SequenceTruncate, Correction::SequenceMask);
  CHECK(at::equal(weights(batch, correction, 2, .5), at::ones({8}, at::kDouble)));
  const auto found = mismatch(batch);
  CHECK(found.mean_k3() == 0.0);
  CHECK(found.chi2_sequence() == 0.0);
  CHECK(found.mean_perplexity_ratio() == 1.0);
}

TEST_CASE("nothing is told of a batch without tokens", "[trainer]") {
  auto batch = two_responses();
  batch.mask_S = at::zeros({8}, at::kDouble);
  const auto found = mismatch(batch);
  CHECK(found.mean_k1() == 0.0);
  CHECK(found.chi2_token() == 0.0);
  CHECK(found.chi2_sequence() == 0.0);
  CHECK(found.ess() == 1.0);
}

TEST_CASE("the tokens of most entropy are those at or above the quantile", "[trainer]") {
  const auto entropies = rows({.5, 2, .1, 1, 3, 9}), mask = rows({1, 1, 1, 1, 1, 0});
  const auto counted = entropies.narrow(0, 0, 5);
  const auto of = [&](double top) {
    return high_entropy_mask(entropies, mask, entropy_threshold(counted, top));
  };
  CHECK(at::equal(of(1.0), at::tensor({1, 1, 1, 1, 1, 0}, at::kFloat)));
  CHECK(at::equal(of(0.5), at::tensor({0, 1, 0, 1, 1, 0}, at::kFloat)));
  CHECK(at::equal(of(0.2), at::tensor({0, 0, 0, 0, 1, 0}, at::kFloat)));
  CHECK(at::equal(of(0.0), at::tensor({0, 0, 0, 0, 1, 0}, at::kFloat)));
  for (const double top : {0.0, 0.1, 0.2, 0.33, 0.5, 0.8, 1.0})
    CHECK(near(entropy_threshold(counted, top), counted.quantile(1.0 - top).item<double>()));
  CHECK(std::isinf(entropy_threshold(counted.narrow(0, 0, 0), 0.2)));
}
