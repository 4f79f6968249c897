#include "trainer/grpo/scorer.hpp"

#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <string>
#include <thread>

#include "trainer/sft/numeric_error.hpp"

using namespace tailor::trainer;

namespace {

using std::chrono::milliseconds;

/// Scores a sample by the length of its text, once it is let, and counts what runs at once.
class Gate final : public Reward {
 public:
  Gate() : Reward(RewardConfig()) {}

  Scores score(std::span<const Judged> samples) override {
    if (++num_running > 1) overlapped = true;
    while (!open && !cancelled()) std::this_thread::sleep_for(milliseconds(1));
    --num_running;
    if (cancelled()) throw ScoringCancelled();
    ++num_calls;
    Scores out;
    for (const auto& sample : samples)
      out.values.emplace_back(static_cast<double>(sample.completion.size()));
    return out;
  }

  std::atomic<bool> open = false, overlapped = false;
  std::atomic<int> num_running = 0, num_calls = 0;
};

class Lost final : public Reward {
 public:
  using Reward::Reward;
  Scores score(std::span<const Judged> /*samples*/) override {
    throw RewardLost("its children cannot be started");
  }
};

struct Gates {
  std::vector<std::unique_ptr<Reward>> rewards;
  Gates() {
    rewards.push_back(std::make_unique<Gate>());
    rewards.push_back(std::make_unique<Gate>());
  }
  Gate& operator[](std::size_t i) { return static_cast<Gate&>(*rewards[i]); }
};

SharedSamples of_lengths(const std::vector<std::size_t>& lengths) {
  std::vector<Judged> out;
  for (const auto length : lengths) out.push_back({.completion = std::string(length, 'x')});
  return std::make_shared<const std::vector<Judged>>(std::move(out));
}

bool is_ready(const std::future<Scored>& scored) {
  return scored.wait_for(milliseconds(0)) == std::future_status::ready;
}

}  // namespace

TEST_CASE("rewards are asked in order while the caller goes on", "[grpo]") {
  Gates gates;
  Scorer scorer(gates.rewards);
  auto first = scorer.start(of_lengths({1, 2})), second = scorer.start(of_lengths({5}));
  while (gates[0].num_running == 0) std::this_thread::sleep_for(milliseconds(1));
  CHECK_FALSE(is_ready(first));
  gates[0].open = true;
  while (gates[1].num_running == 0) std::this_thread::sleep_for(milliseconds(1));
  CHECK(gates[0].num_calls == 1);  // the second batch waits for all rewards of the first
  CHECK_FALSE(is_ready(first));
  gates[1].open = true;
  const auto scored = first.get();
  REQUIRE(scored.functions.size() == 2);
  CHECK(scored.functions[0].values == std::vector<std::optional<double>>{1.0, 2.0});
  CHECK(scored.functions[1].values == scored.functions[0].values);
  CHECK(scored.busy_s > 0.0);
  CHECK(second.get().functions[0].values == std::vector<std::optional<double>>{5.0});
  CHECK_FALSE((gates[0].overlapped || gates[1].overlapped));
}

TEST_CASE("what is not scored at the end is given up", "[grpo]") {
  Gates gates;
  std::future<Scored> running, waiting;
  {
    Scorer scorer(gates.rewards);
    running = scorer.start(of_lengths({1}));
    waiting = scorer.start(of_lengths({2}));
    while (gates[0].num_running == 0) std::this_thread::sleep_for(milliseconds(1));
  }
  CHECK_THROWS_AS(running.get(), ScoringCancelled);
  CHECK_THROWS_AS(waiting.get(), std::future_error);
  CHECK(gates[0].num_calls == 0);
}

TEST_CASE("a reward that is lost ends the job by its name", "[grpo]") {
  RewardConfig config;
  config.name = "judge";
  config.place = "job.yaml:9:5: rewards[1]";
  std::vector<std::unique_ptr<Reward>> rewards;
  rewards.push_back(std::make_unique<Lost>(config));
  Scorer scorer(rewards);
  using Catch::Matchers::Contains;
  auto scored = scorer.start(of_lengths({1}));
  CHECK_THROWS_AS(scored.get(), NumericError);
  scored = scorer.start(of_lengths({1}));
  CHECK_THROWS_WITH(scored.get(),
                    Contains("job.yaml:9:5: rewards[1]: the reward \"judge\" cannot be "
                             "asked any more: its children cannot be started; "));
}

TEST_CASE("a rank without rewards has no answers", "[grpo]") {
  Scorer scorer({});
  CHECK(scorer.start(of_lengths({1})).get().functions.empty());
}
