#include "trainer/grpo/policy_loss.hpp"

#include <ATen/ATen.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <functional>

#include "grpo_batch.hpp"
#include "trainer/grpo/kl.hpp"

using namespace tailor::trainer;

namespace {

using Values = std::vector<double>;

constexpr Normalizer kStep{kTokens, kSequences, kMaxLength};

bool near(double found, double expected) { return std::abs(found - expected) < 1e-8; }

/// Of the tokens that count: the last row does not.
void check_rows(const at::Tensor& found_S, const Values& expected) {
  for (std::size_t t = 0; t < expected.size(); ++t) {
    CAPTURE(t);
    CHECK(near(found_S[static_cast<std::int64_t>(t)].item<double>(), expected[t]));
  }
}

GrpoConfig settings(LossType type) {
  GrpoConfig config;
  config.loss_type = type;
  config.epsilon_high = type == LossType::Cispo ? 5.0 : 0.28;
  return config;
}

GrpoConfig sequence_level(LossType type, double low = 0.2, double high = 0.28) {
  auto config = settings(type);
  config.importance_sampling_level = RatioLevel::Sequence;
  config.epsilon = low;
  config.epsilon_high = high;
  return config;
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

namespace {

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
