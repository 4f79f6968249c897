#include <catch2/catch.hpp>
#include <cmath>

#include "trainer/grpo/advantages.hpp"

using namespace tailor::trainer;

namespace {

constexpr auto kNone = std::nullopt;

Advantages of(const RewardColumn& rewards, ScaleRewards scale, std::int64_t num_generations = 4) {
  return advantages({rewards}, {1.0}, num_generations, scale);
}

void check_near(const std::vector<double>& found, const std::vector<double>& expected) {
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    CAPTURE(i);
    CHECK(std::abs(found[i] - expected[i]) < 1e-8);
  }
}

RewardColumn joined(RewardColumn first, const RewardColumn& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

const RewardColumn kHalves{1, 0, 0, 1}, kOne{1, 0, 0, 0}, kMixed{.2, .9, .4, .5};
const RewardColumn kEqual{1, 1, 1, 1}, kHoled{1, kNone, 0, 1};

}  // namespace

TEST_CASE("a group's advantages have the published values", "[trainer]") {
  struct Row {
    RewardColumn rewards;
    std::vector<double> group, verl, none, rloo;
  };
  const std::vector<Row> rows{{kHalves,
                               {.86587543, -.86587543, -.86587543, .86587543},
                               {.86602390, -.86602390, -.86602390, .86602390},
                               {.5, -.5, -.5, .5},
                               {.66666667, -.66666667, -.66666667, .66666667}},
                              {kOne,
                               {1.49970006, -.49990002, -.49990002, -.49990002},
                               {1.49999700, -.49999900, -.49999900, -.49999900},
                               {.75, -.25, -.25, -.25},
                               {1, -.33333333, -.33333333, -.33333333}},
                              {kMixed,
                               {-1.01870329, 1.35827106, -.33956776, 0},
                               {-1.01904587, 1.35872783, -.33968196, 0},
                               {-.3, .4, -.1, 0},
                               {-.4, .53333333, -.13333333, 0}},
                              {kEqual, {0, 0, 0, 0}, {0, 0, 0, 0}, {0, 0, 0, 0}, {0, 0, 0, 0}}};
  for (const auto& row : rows) {
    const auto by_group = of(row.rewards, ScaleRewards::Group);
    check_near(by_group.values, row.group);
    check_near(of(row.rewards, ScaleRewards::None).values, row.none);
    check_near(of(row.rewards, ScaleRewards::Rloo).values, row.rloo);
    // verl adds 1e-6 to the deviation, not 1e-4.
    auto verl = by_group.values;
    for (auto& value : verl)
      value *= (by_group.group_deviations[0] + 1e-4) / (by_group.group_deviations[0] + 1e-6);
    check_near(verl, row.verl);
  }
}

TEST_CASE("the deviation may be that of the batch", "[trainer]") {
  const auto found = of(joined(kHalves, kMixed), ScaleRewards::Batch);
  CHECK(std::abs(found.reward.deviation - .42426407) < 1e-8);
  check_near(found.values, {1.17823359, -1.17823359, -1.17823359, 1.17823359, -.70694015, .94258687,
                            -.23564672, 0});
}

TEST_CASE("BNPO's advantages are divided by the density of the groups' means", "[trainer]") {
  // Means 0.1, 0.3 and 0.8 of ten each
  RewardColumn rewards(30, 0.0);
  for (const auto& [begin, count] : {std::pair(0, 1), {10, 3}, {20, 8}})
    for (int i = 0; i < count; ++i) rewards[static_cast<std::size_t>(begin + i)] = 1.0;
  const auto found = of(rewards, ScaleRewards::BnpoBeta, 10).values;
  check_near({found[0], found[10], found[20]}, {.90274064, .64723212, .20464779});
  check_near({found[9], found[19], found[29]}, {-.10030452, -.27738519, -.81859116});

  check_near(of(kOne, ScaleRewards::BnpoBeta).values, {.75, -.25, -.25, -.25});  // one group
  const auto certain = of(joined(kEqual, kOne), ScaleRewards::BnpoBeta).values;
  check_near({certain[0], certain[3]}, {0, 0});
  CHECK((std::isfinite(certain[4]) && certain[4] > 0));
  check_near(of({kNone, kNone, 1, 0}, ScaleRewards::BnpoBeta, 2).values, {0, 0, .5, -.5});
  CHECK_THROWS_WITH(of({1, 0, 2, 1}, ScaleRewards::BnpoBeta),
                    "grpo.scale_rewards: bnpo_beta takes weighted rewards from 0 to 1, found "
                    "2.000000");
}

TEST_CASE("functions may be normalized one by one", "[trainer]") {
  const RewardColumn first{1, 0, 0, 1, 0, 1, 1, 1}, second{.5, .1, .9, .3, .2, .4, .6, 0};
  const auto found = advantages({first, second}, {1.0, 0.5}, 4, ScaleRewards::Group,
                                RewardAggregation::NormalizeThenSum);
  check_near(found.values, {.89156161, -1.30838779, -.19685131, .61367749, -1.60765020, .65840720,
                            1.02597860, -.07673560});
  check_near({*found.rewards[0], *found.rewards[6]}, {1.25, 1.3});
}

TEST_CASE("samples that no function scored count nowhere", "[trainer]") {
  const auto found = of(kHoled, ScaleRewards::Group);
  check_near(found.values, {.57725029, 0, -1.15450057, .57725029});
  CHECK(found.values[1] == 0.0);
  CHECK_FALSE(found.rewards[1]);
  check_near({found.reward.mean, found.functions[0].mean}, {2. / 3, 2. / 3});

  const auto rloo = of(kHoled, ScaleRewards::Rloo);
  check_near(rloo.values, {.5, 0, -1, .5});
  const auto both = advantages({kHoled, {2, kNone, kNone, 2}}, {1.0, 0.5}, 4, ScaleRewards::None);
  check_near({*both.rewards[0], *both.rewards[2], *both.rewards[3]}, {2, 0, 2});
  CHECK_FALSE(both.rewards[1]);
  CHECK(both.functions[1].mean == 2.0);
}

TEST_CASE("groups without spread have advantage 0 and are told", "[trainer]") {
  const auto scale =
      GENERATE(ScaleRewards::Group, ScaleRewards::Batch, ScaleRewards::None, ScaleRewards::Rloo);
  const auto aggregation =
      GENERATE(RewardAggregation::SumThenNormalize, RewardAggregation::NormalizeThenSum);
  const RewardColumn tenths{.1, .1, .1};  // whose mean is not .1 in floating point
  const RewardColumn mixed{kNone, 2, 1}, unscored{kNone, kNone, kNone};
  const auto rewards = joined(joined(tenths, mixed), unscored);
  const auto found = advantages({rewards}, {1.0}, 3, scale, aggregation);
  CHECK(found.group_has_spread == std::vector<bool>{false, true, false});
  CHECK(found.frac_reward_zero_std == 2.0 / 3.0);
  for (const std::size_t i : {0, 1, 2, 3, 6, 7, 8}) CHECK(found.values[i] == 0.0);
  CHECK(found.values[4] > 0.0);
  CHECK(found.values[5] == Approx(-found.values[4]));
}

TEST_CASE("what a sample alone in its group is worth is 0", "[trainer]") {
  const auto scale =
      GENERATE(ScaleRewards::Group, ScaleRewards::Batch, ScaleRewards::None, ScaleRewards::Rloo);
  CHECK(of({3, 5}, scale, 1).values == std::vector<double>{0, 0});
  CHECK(of({3, kNone}, scale, 2).values == std::vector<double>{0, 0});
}

TEST_CASE("rewards that lie apart in all functions but one sum have no spread in the sum",
          "[trainer]") {
  const RewardColumn first{.1, .2}, second{.2, .1};
  const auto summed = advantages({first, second}, {1, 1}, 2, ScaleRewards::Group);
  CHECK(summed.group_has_spread == std::vector<bool>{false});
  const auto one_by_one = advantages({first, second}, {1, 1}, 2, ScaleRewards::Group,
                                     RewardAggregation::NormalizeThenSum);
  CHECK(one_by_one.group_has_spread == std::vector<bool>{true});
}

TEST_CASE("advantages do not see a shift of rewards, nor a group's scale", "[trainer]") {
  const RewardColumn rewards{.2, .9, .4, .5, 3, 2, 2, 7};
  for (const auto scale :
       {ScaleRewards::Group, ScaleRewards::Batch, ScaleRewards::None, ScaleRewards::Rloo}) {
    auto shifted = rewards;
    for (auto& reward : shifted) *reward += 5.0;
    const auto found = of(rewards, scale).values;
    check_near(of(shifted, scale).values, found);
    CHECK(std::abs(found[0] + found[1] + found[2] + found[3]) < 1e-12);
  }
  auto larger = rewards;
  for (auto& reward : larger) *reward *= 1e6;
  CHECK(of(larger, ScaleRewards::Group).values[1] == Approx(1.3587324));
}

TEST_CASE("sizes that do not fit are refused", "[trainer]") {
  CHECK_THROWS_WITH(of({1, 2, 3}, ScaleRewards::Group, 2),
                    "advantages: 3 samples; expected groups of 2");
  CHECK_THROWS_WITH(advantages({{1, 2}, {1}}, {1, 1}, 1, ScaleRewards::Group),
                    "advantages: functions have 2 and 1 samples; expected as many");
  CHECK_THROWS_AS(advantages({{1, 2}}, {}, 1, ScaleRewards::Group), std::invalid_argument);
}
