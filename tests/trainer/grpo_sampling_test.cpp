#include "trainer/grpo/sampling.hpp"

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "distributed/group.hpp"
#include "distributed/mesh.hpp"
#include "trainer/grpo/facts.hpp"

using namespace tailor;
using namespace tailor::trainer;

namespace {

constexpr auto kNone = std::nullopt;
constexpr std::int64_t kEnd = 2;

/// A grader, and a penalty in [-1, 0].
GrpoTask two_rewards() {
  GrpoTask task;
  task.stop_ids = {kEnd};
  for (const auto* name : {"answer", "penalty"}) {
    RewardConfig reward;
    reward.name = name;
    task.reward_configs.push_back(reward);
  }
  return task;
}

/// Completions of one prompt after another, four each.
std::vector<Rollout> rollouts_of(std::int64_t num_groups) {
  std::vector<Rollout> out;
  for (std::int64_t i = 0; i < 4 * num_groups; ++i)
    out.push_back({.group = i / 4, .row = i / 4, .ids = {11, 12 + i, kEnd}});
  return out;
}

struct Judges {
  GrpoTask task = two_rewards();
  std::unique_ptr<distributed::Group> world = distributed::make_single_group();
  distributed::Mesh mesh = distributed::make_mesh(*world, {});

  Judgement operator()(const std::vector<Rollout>& rollouts, const Scored& scored) const {
    return judge(task, rollouts, scored, static_cast<std::int64_t>(rollouts.size()) / 4, 4, mesh);
  }
};

double metric(const std::vector<Metric>& metrics, const std::string& name) {
  const auto found = find_number(metrics, name);
  REQUIRE(found);
  return *found;
}

}  // namespace

TEST_CASE("a fault costs its sample and a null its term", "[grpo]") {
  // The second completion breaks the penalty; of the third the penalty has nothing to say.
  const Scored scored{{{{1, 1, 1, 0}, {}}, {{-0.5, kNone, kNone, -1}, {{1, "crashed"}}}}};
  const Judges judges;
  const auto judged = judges(rollouts_of(1), scored);
  CHECK(judged.functions[0] == RewardColumn{1, kNone, 1, 0});
  CHECK(judged.functions[1] == RewardColumn{-0.5, kNone, kNone, -1});
  CHECK(judged.num_faulted == 1);
  CHECK(judged.scored);
  CHECK(judged.failed);

  const auto weighed =
      advantages(judged.functions, {1.0, 1.0}, /*num_generations=*/4, ScaleRewards::None);
  CHECK(weighed.rewards == RewardColumn{0.5, kNone, 1, -1});
  const double mean = 0.5 / 3;  // of three
  CHECK(weighed.values[0] == Approx(0.5 - mean));
  CHECK(weighed.values[1] == 0.0);
  CHECK(weighed.values[2] == Approx(1 - mean));
  CHECK(weighed.values[3] == Approx(-1 - mean));

  const auto facts = batch_facts(judges.task, judged, weighed);
  CHECK(metric(facts, "num_unscored") == 1);
  CHECK(metric(facts, "num_faulted") == 1);
  CHECK(metric(facts, "reward") == Approx(mean));
}

TEST_CASE("a row that is at fault keeps its other rewards", "[grpo]") {
  const std::string reason = "the row has no column";
  const std::vector<RewardFault> faults{
      {0, reason, true}, {1, reason, true}, {2, reason, true}, {3, reason, true}};
  const Scored scored{{{{kNone, kNone, kNone, kNone}, faults}, {{-1, 0, -0.5, 0}, {}}}};
  const auto judged = Judges()(rollouts_of(1), scored);
  CHECK(judged.functions[1] == RewardColumn{-1, 0, -0.5, 0});
  CHECK(judged.num_faulted == 0);
  CHECK(judged.failed);
}

TEST_CASE("a reward that fails everywhere leaves nothing to learn from", "[grpo]") {
  std::vector<RewardFault> faults;
  for (std::size_t i = 0; i < 8; ++i) faults.push_back({i, "out of order"});
  const Scored scored{
      {{{1, 0, 1, 0, 0, 0, 1, 0}, {}}, {RewardColumn(8, kNone), std::move(faults)}}};
  const auto judged = Judges()(rollouts_of(2), scored);
  CHECK_FALSE(judged.scored);
  CHECK(judged.failed);
  CHECK(judged.num_faulted == 8);
}

TEST_CASE("what ends completions is told apart", "[grpo]") {
  auto rollouts = rollouts_of(1);
  rollouts[1].ids = {11, 12};  // by a stop string
  rollouts[2].ids = {11, 12, 13, 14};
  rollouts[2].stopped = false;
  const Judges judges;
  const auto judged = judges(rollouts, {{{{1, 0, 0, 1}, {}}, {{0, 0, 0, 0}, {}}}});
  CHECK(judged.endings == std::vector<Ending>{Ending::EndToken, Ending::StopString, Ending::Length,
                                              Ending::EndToken});
  const auto weighed = advantages(judged.functions, {1, 1}, 4, ScaleRewards::Group);
  const auto facts = batch_facts(judges.task, judged, weighed);
  CHECK(metric(facts, "completions/clipped_ratio") == 0.25);
  CHECK(metric(facts, "completions/eos_token_ratio") == 0.5);
  CHECK(metric(facts, "completions/stop_string_ratio") == 0.25);
  CHECK(metric(facts, "completions/max_terminated_length") == 3);
  CHECK(name_of(Ending::Length) == "length");
  CHECK(name_of(Ending::EndToken) == "eos_token");
  CHECK(name_of(Ending::StopString) == "stop_string");
}
