#include "trainer/sft/schedule.hpp"

#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>

namespace tailor::trainer {
namespace {

struct Case {
  const char* golden;
  Schedule schedule;
  double min_ratio;
};

}  // namespace

TEST_CASE("every schedule gives the factors of transformers") {
  std::ifstream in(std::string(TAILOR_GOLDEN) + "/schedules.json");
  const auto golden = nlohmann::json::parse(in);
  const auto steps = golden["steps"].get<std::int64_t>();
  const auto item =
      GENERATE(Case{"constant", Schedule::Constant, 0.0}, Case{"linear", Schedule::Linear, 0.0},
               Case{"cosine", Schedule::Cosine, 0.0}, Case{"wsd", Schedule::Wsd, 0.0},
               Case{"wsd_min", Schedule::Wsd, 0.1});
  const LearningRate rate{.schedule = item.schedule,
                          .peak = 2e-4,
                          .num_steps = steps,
                          .warmup_steps = golden["warmup"].get<std::int64_t>(),
                          .decay_steps = golden["decay"].get<std::int64_t>(),
                          .min_ratio = item.min_ratio};
  for (std::int64_t step = 0; step < steps; ++step) {
    CAPTURE(item.golden, step);
    const double factor = golden["factors"][item.golden][static_cast<std::size_t>(step)];
    CHECK(rate.at(step) == Approx(2e-4 * factor).epsilon(1e-9).margin(1e-18));
  }
}

TEST_CASE("without a warm-up the first step has the peak and the last one nearly the least rate") {
  const auto schedule = GENERATE(Schedule::Linear, Schedule::Cosine, Schedule::Wsd);
  const LearningRate rate{
      .schedule = schedule, .peak = 1.0, .num_steps = 1000, .decay_steps = 100, .min_ratio = 0.25};
  CHECK(rate.at(0) == 1.0);
  CHECK(rate.at(999) == Approx(0.25).margin(0.01));
  CHECK(rate.at(999) >= 0.25);
  CHECK(rate.at(1000) == Approx(0.25));
}

TEST_CASE("rates never rise after the warm-up") {
  const auto schedule =
      GENERATE(Schedule::Constant, Schedule::Linear, Schedule::Cosine, Schedule::Wsd);
  TrainConfig config;
  config.lr_scheduler_type = schedule;
  config.warmup_ratio = 0.1;
  config.decay_ratio = 0.3;
  const auto rate = learning_rate(config, 40);
  CHECK(rate.warmup_steps == 4);
  for (std::int64_t step = 4; step < 40; ++step) CHECK(rate.at(step + 1) <= rate.at(step));
}

TEST_CASE("warmup_steps goes before warmup_ratio and a ratio is rounded up") {
  TrainConfig config;
  config.warmup_ratio = 0.03;
  CHECK(learning_rate(config, 200).warmup_steps == 6);
  CHECK(learning_rate(config, 201).warmup_steps == 7);
  config.warmup_steps = 0;
  CHECK(learning_rate(config, 200).warmup_steps == 0);
}

TEST_CASE("a warm-up longer than the run only rises") {
  TrainConfig config;
  config.lr_scheduler_type = GENERATE(Schedule::Cosine, Schedule::Wsd);
  config.warmup_steps = 100;
  const auto rate = learning_rate(config, 10);
  for (std::int64_t step = 0; step < 9; ++step) CHECK(rate.at(step) < rate.at(step + 1));
}

}  // namespace tailor::trainer
