#include "trainer/grpo/policy_loss.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>

#include <catch2/catch.hpp>
#include <cmath>

#include "grpo_batch.hpp"
#include "trainer/grpo/kl.hpp"

using namespace tailor::trainer;

namespace {

using Values = std::vector<double>;

/// Of the tokens that count: the last row does not.
void check_rows(const at::Tensor& found_S, const Values& expected) {
  for (std::size_t t = 0; t < expected.size(); ++t) {
    CAPTURE(t);
    CHECK(near(found_S[static_cast<std::int64_t>(t)].item<double>(), expected[t]));
  }
}

/// d loss_t / d logprob_t, from the gradient of the whole loss.
at::Tensor gradient_before_aggregation(const PolicyLoss& found, const GrpoConfig& config) {
  const auto each = [&](double length) { return divisor(config.loss_type, length, kStep); };
  return found.dlogprobs_S *
         rows({each(4), each(4), each(4), each(4), each(3), each(3), each(3), 1});
}

/// The loss of the batch from the same per-token terms, aggregated as another type's.
double aggregated_as(LossType type, const PolicyLoss& found) {
  return found.losses_S.narrow(0, 0, 4).sum().item<double>() / divisor(type, 4, kStep) +
         found.losses_S.narrow(0, 4, 3).sum().item<double>() / divisor(type, 3, kStep);
}

}  // namespace

TEST_CASE("KL estimators have the published values and gradients", "[trainer]") {
  struct Row {
    double u, k1, k2, k3, gradient_1, gradient_2, gradient_3;
  };
  const auto ln2 = std::log(2.0);
  for (const auto& row :
       std::vector<Row>{{ln2, .69314718, .24022651, .19314718, 1, .69314718, .5},
                        {-ln2, -.69314718, .24022651, .30685282, 1, -.69314718, -1},
                        {.1, .1, .005, .00483742, 1, .1, .09516258},
                        {-.1, -.1, .005, .00517092, 1, -.1, -.10517092}}) {
    const auto check = [&](KlEstimator estimator, double value, double gradient) {
      const auto found = kl_term(estimator, row.u);
      CHECK(near(found.value, value));
      CHECK(near(found.gradient, gradient));
    };
    check(KlEstimator::K1, row.k1, row.gradient_1);
    check(KlEstimator::K2, row.k2, row.gradient_2);
    check(KlEstimator::K3, row.k3, row.gradient_3);
    check(KlEstimator::K1Plus, row.k1, row.gradient_2);
    check(KlEstimator::K3Plus, row.k3, row.gradient_2);
  }
  CHECK(kl_term(KlEstimator::K3, 0.0).value == 0.0);
  CHECK(std::isfinite(kl_term(KlEstimator::K3, -1e5).value));
  CHECK(kl_term(KlEstimator::K3, -1e5).gradient == 0.0);
}

TEST_CASE("token losses, their gradients and sums have the published values", "[trainer]") {
  struct Row {
    std::string name;
    GrpoConfig config;
    Values losses, gradients;  // by token
    double grpo, dapo, dr_grpo, sum;
  };
  auto delta = settings(LossType::Dapo), dual = delta;
  delta.delta = 1.5;
  dual.dual_clip = 3.0;
  const std::vector<Row> table{
      {"clipped",
       settings(LossType::Dapo),
       {-1.536, -.93456094, -1.32620510, -1.2, 2.93543733, .64, .84101688},
       {0, -.93456094, -1.32620510, -1.2, 2.93543733, 0, .84101688},
       .11147995,
       -.08290169,
       -.03626949,
       -.29015592},
      {"delta",
       delta,
       {-1.536, -.93456094, -1.32620510, -1.2, 1.2, .64, .84101688},
       {0, -.93456094, -1.32620510, -1.2, 0, 0, .84101688},
       -.17775961,
       -.33082131,
       -.14473432,
       -1.15787458},
      {"dual clip",
       dual,
       {-1.536, -.93456094, -1.32620510, -1.2, 2.4, .64, .84101688},
       {0, -.93456094, -1.32620510, -1.2, 0, 0, .84101688},
       .02224039,
       -.15939274,
       -.06973432,
       -.55787458},
      {"cispo",
       settings(LossType::Cispo),
       {1.13388140, .70092070, 2.51978969, .84, -.58708747, -.36643781, -.71486435},
       {-1.61983057, -.93456094, -1.32620510, -1.2, 2.93543733, .56375047, .84101688},
       .37125904,
       .50374317,
       .22038764,
       1.76310109},
      {"sapo",
       settings(LossType::Sapo),
       {-2.81560003, -2.13563798, -2.52608890, -2.4, 2.87337103, 1.28943488, 1.56481650},
       {-1.57125720, -.92322172, -1.32254459, -1.2, .63295234, .55041382, .84040782},
       -.28006213,
       -.59281493,
       -.25935653,
       -2.07485225},
      {"minirl",
       settings(LossType::MiniRl),
       {0, .68020537, 5.60789509, .84844214, -.23869195, 0, -1.06645229},
       {0, -.90694049, -2.95152373, -1.21206020, 1.19345976, 0, 1.25464975},
       .67454379,
       .83305691,
       .36446240,
       2.91569918}};
  for (const auto& row : table) {
    CAPTURE(row.name);
    const auto found = policy_loss(two_responses(), row.config, kStep);
    check_rows(found.losses_S, row.losses);
    check_rows(gradient_before_aggregation(found, row.config), row.gradients);
    CHECK(near(aggregated_as(LossType::Grpo, found), row.grpo));
    CHECK(near(aggregated_as(LossType::Dapo, found), row.dapo));
    CHECK(near(aggregated_as(LossType::DrGrpo, found), row.dr_grpo));
    CHECK(near(aggregated_as(LossType::MiniRl, found), row.sum));
    CHECK(near(aggregated_as(row.config.loss_type, found), found.loss));
    CHECK(found.dlogprobs_S[7].item<double>() == 0.0);
  }
}

TEST_CASE("each loss type has its aggregation", "[trainer]") {
  const auto loss = [](LossType type) {
    return policy_loss(two_responses(), settings(type), kStep).loss;
  };
  CHECK(near(loss(LossType::Grpo), .11147995));
  CHECK(near(loss(LossType::Dapo), -.08290169));
  CHECK(near(loss(LossType::Bnpo), -.08290169));
  CHECK(near(loss(LossType::DrGrpo), -.03626949));
  CHECK(near(loss(LossType::Luspo), -.29015592));  // of tokens, its plain sum
  CHECK(near(loss(LossType::Sapo), -.28006213));
  CHECK(near(loss(LossType::Cispo), .50374317));
  CHECK(near(loss(LossType::MiniRl), 2.91569918));
}

TEST_CASE("bnpo with a response a micro-batch is grpo", "[trainer]") {
  const auto whole = two_responses();
  double loss = 0.0;
  for (const std::int64_t i : {0, 1}) {
    auto part = whole;
    part.offsets = {0, 4};
    part.advantages = {whole.advantages[static_cast<std::size_t>(i)]};
    for (auto* rows_S :
         {&part.mask_S, &part.logprobs_S, &part.old_S, &part.reference_S, &part.sampler_S})
      *rows_S = rows_S->narrow(0, 4 * i, 4);
    // Two micro-batches, of 4 and 3 tokens.
    loss += policy_loss(part, settings(LossType::Bnpo), {2.0 * (i == 0 ? 4 : 3), 2, 8}).loss;
  }
  CHECK(near(loss, .11147995));
}

TEST_CASE("sequence-level losses have the published values", "[trainer]") {
  const auto of = [](const GrpoConfig& config) {
    return policy_loss(two_responses(), config, kStep);
  };
  auto found = of(sequence_level(LossType::Grpo, 3e-4, 4e-4));
  check_rows(found.losses_S, {-1.20048, -1.20048, -1.20048, -1.20048, 1.11648994, 1.11648994});
  CHECK(near(found.loss, -.04199503));
  check_rows(found.dlogprobs_S, {0, 0, 0, 0, .18608166, .18608166, .18608166});

  found = of(sequence_level(LossType::Grpo));
  check_rows(found.losses_S, {-1.24585440, -1.24585440, -1.24585440, -1.24585440, 1.11648994});
  CHECK(near(found.loss, -.06468223));
  check_rows(found.dlogprobs_S,
             {-.15573180, -.15573180, -.15573180, -.15573180, .18608166, .18608166, .18608166});

  const auto luspo = of(sequence_level(LossType::Luspo));
  CHECK(near(luspo.loss, -.81697388));
  CHECK(near(found.sums.ratio, 1.03821200 + 1.39561243));
  CHECK(near(found.sums.ratio_max, 1.39561243));
  CHECK(found.sums.num_ratios == 2.0);
}

TEST_CASE("vespo has the published weights and loss", "[trainer]") {
  const auto found = policy_loss(two_responses(), settings(LossType::Vespo), kStep);
  CHECK(near(found.loss, .45117602));
  CHECK(near(found.sums.vespo_phi, .83068657 + .64625336));
  check_rows(found.dlogprobs_S * kTokens,
             {-1.2 * .83068657, -1.2 * .83068657, -1.2 * .83068657, -1.2 * .83068657,
              .8 * .64625336, .8 * .64625336, .8 * .64625336});
  const auto batch = two_responses();
  const auto ratios = (batch.logprobs_S - batch.old_S) * batch.mask_S;
  CHECK(near(ratios.narrow(0, 0, 4).sum().exp().item<double>(), 1.16183424));
  CHECK(near(ratios.narrow(0, 4, 4).sum().exp().item<double>(), 2.71828183));
}

TEST_CASE("the divergence from the reference has the published value and gradient", "[trainer]") {
  auto config = settings(LossType::Dapo);
  const auto without = policy_loss(two_responses(), config, kStep);
  config.beta = 0.1;
  const auto with = policy_loss(two_responses(), config, kStep);
  CHECK(near(with.loss, -.06977474));
  CHECK(near(with.sums.kl / with.sums.tokens, .13126954));
  check_rows((with.dlogprobs_S - without.dlogprobs_S) * (kTokens / 0.1),
             {.22119922, -.16183424, -.10517092, 0, .77686984, -.64872127, .04877058});
  config.use_bias_correction_kl = true;
  CHECK(near(policy_loss(two_responses(), config, kStep).loss, -.04271195));
  config.kl_in = KlPlace::Reward;
  const auto in_reward = policy_loss(two_responses(), config, kStep);
  CHECK(near(in_reward.loss, -.08290169));
  CHECK(near(in_reward.sums.kl, with.sums.kl));

  const auto batch = two_responses();
  const auto summed = response_kl(batch.offsets, batch.mask_S, batch.old_S, batch.reference_S);
  REQUIRE(summed.size() == 2);
  CHECK(near(summed[0], -.15));
  CHECK(near(summed[1], .05));
}

TEST_CASE("responses off the policy are dropped where they were bad", "[trainer]") {
  // The means of sampler - logprob are -0.2375 and -0.18333333.
  auto config = settings(LossType::Dapo);
  const auto loss = [&](double threshold) {
    config.off_policy_mask_threshold = threshold;
    return policy_loss(two_responses(), config, kStep);
  };
  CHECK(near(loss(-.18333332).loss, -.08290169));
  CHECK(loss(-.18333332).sums.num_dropped == 0.0);
  const auto dropped = loss(-.18333334);
  CHECK(near(dropped.loss, -(1.536 + .93456094 + 1.32620510 + 1.2) / 7));
  CHECK(dropped.sums.num_dropped == 1.0);
  CHECK(near(loss(-.3).loss, dropped.loss));  // A > 0 stays
}

TEST_CASE("clipping is counted", "[trainer]") {
  const auto sums = policy_loss(two_responses(), settings(LossType::Dapo), kStep).sums;
  CHECK(sums.clip_low == 1.0);
  CHECK(sums.clip_high == 1.0);
  CHECK(sums.num_ratios == 7.0);
  CHECK(sums.clip_low_min == 0.0);
  CHECK(near(sums.clip_high_max, 0.25));
  CHECK(sums.tokens == 7.0);
  CHECK(sums.sequences == 2.0);
  CHECK(near(sums.logprob_difference_max, 1.3));
  CHECK(near(sums.ratio_max, std::exp(1.3)));
  auto cispo = settings(LossType::Cispo);
  CHECK(policy_loss(two_responses(), cispo, kStep).sums.clip_high == 0.0);
  cispo.epsilon_high = 1.2;
  CHECK(policy_loss(two_responses(), cispo, kStep).sums.clip_high == 1.0);
}

TEST_CASE("on the policy every token has the gradient -A over its divisor", "[trainer]") {
  for (const auto type :
       {LossType::Grpo, LossType::Dapo, LossType::DrGrpo, LossType::Bnpo, LossType::Cispo,
        LossType::Sapo, LossType::MiniRl, LossType::Luspo, LossType::Vespo}) {
    auto batch = two_responses();
    batch.reference_S = at::Tensor();
    batch.sampler_S = at::Tensor();
    for (const auto& old_S : {batch.logprobs_S, at::Tensor()}) {
      batch.old_S = old_S;
      const auto config = settings(type);
      const auto found = policy_loss(batch, config, kStep);
      check_rows(gradient_before_aggregation(found, config), {-1.2, -1.2, -1.2, -1.2, .8, .8, .8});
      CHECK(found.sums.logprob_difference_max == 0.0);
    }
  }
}

TEST_CASE("float32 in, float32 out", "[trainer]") {
  auto batch = two_responses();
  const auto expected = policy_loss(batch, settings(LossType::Dapo), kStep);
  for (auto* rows_S :
       {&batch.mask_S, &batch.logprobs_S, &batch.old_S, &batch.reference_S, &batch.sampler_S})
    *rows_S = rows_S->to(at::kFloat);
  batch.mask_S = batch.mask_S.to(at::kBool);
  const auto found = policy_loss(batch, settings(LossType::Dapo), kStep);
  CHECK(found.dlogprobs_S.scalar_type() == at::kFloat);
  CHECK(found.loss == Approx(expected.loss).epsilon(1e-5));
  CHECK(at::allclose(found.dlogprobs_S.to(at::kDouble), expected.dlogprobs_S, 1e-5, 1e-7));
}

TEST_CASE("batches that do not fit are refused by name", "[trainer]") {
  const auto config = settings(LossType::Dapo);
  auto batch = two_responses();
  batch.old_S = rows({1, 2});
  CHECK_THROWS_WITH(policy_loss(batch, config, kStep), "old_S: shape [2], expected (8)");
  batch = two_responses();
  batch.mask_S = at::Tensor();
  CHECK_THROWS_WITH(policy_loss(batch, config, kStep), "mask_S: undefined, expected (8)");
  batch = two_responses();
  batch.advantages = {1};
  CHECK_THROWS_WITH(policy_loss(batch, config, kStep),
                    "advantages: 1, expected one for each of 2 responses");
  batch = two_responses();
  batch.offsets = {0, 5, 4};
  CHECK_THROWS_AS(policy_loss(batch, config, kStep), std::invalid_argument);
}
