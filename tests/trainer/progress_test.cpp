#include "trainer/metrics/progress.hpp"

#include <catch2/catch.hpp>
#include <limits>
#include <sstream>

#include "trainer/metrics/curve.hpp"
#include "trainer/metrics/memory.hpp"

using namespace tailor::trainer;
using Catch::Matchers::Contains;

namespace {

const StepMetrics kMetrics{.step = 120,
                           .epoch = 1.5,
                           .loss = 0.42134,
                           .learning_rate = 1.8e-4,
                           .grad_norm = 0.523,
                           .mean_token_accuracy = 0.8,
                           .num_tokens = 245'760,
                           .tokens_per_second = 1512.3,
                           .supervised_tokens_per_second = 210.4,
                           .step_time_s = 1.3,
                           .rss_bytes = std::int64_t{1} << 30};
const Progress kProgress{.total_steps = 200, .elapsed_s = 130.0, .left_s = 86.0, .activity = ""};

/// Columns on a terminal: escape sequences take none, a UTF-8 sequence one.
int columns(const std::string& text) {
  int count = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\033') {
      i = text.find('m', i);
      continue;
    }
    count += (static_cast<unsigned char>(text[i]) & 0xC0U) != 0x80U ? 1 : 0;
  }
  return count;
}

}  // namespace

TEST_CASE("the bar shows every figure where there is room", "[metrics]") {
  const auto line = bar_line(kMetrics, kProgress, 120, {});
  CHECK(line ==
        "120/200  60%  [################-----------]  2:10<1:26  loss 0.4213  lr 1.80e-04  "
        "grad 0.523  1,512 tok/s (210)  1.0 GiB");
  const auto unicode = bar_line(kMetrics, kProgress, 120, {true, true, true});
  CHECK_THAT(unicode, Contains("\u2501\u2501") && Contains("\u2500\u2500"));
}

TEST_CASE("under GRPO the bar shows rewards, lengths and where the time goes", "[metrics]") {
  auto metrics = kMetrics;
  metrics.more = {{"reward", 0.5},
                  {"reward_std", 0.25},
                  {"frac_reward_zero_std", 0.125},
                  {"completions/mean_length", 61.4},
                  {"rollout_tokens_per_second", 245.0},
                  {"rollout_time_s", 6.0},
                  {"reward_time_s", 1.0},
                  {"update_time_s", 3.0},
                  {"update_tokens_per_second", 1200.0},
                  {"entropy", 1.5},
                  {"clip_ratio/region_mean", 0.0}};
  const auto line = bar_line(metrics, kProgress, 300, {});
  CHECK_THAT(line, Contains("reward 0.500 (std 0.25)  no spread 12%  length 61  entropy 1.50  "
                            "245 tok/s sampled  1,200 trained  time 60/10/30%"));
  CHECK_THAT(line, !Contains("loss"));
  CHECK_THAT(plain_line(metrics, kProgress), Contains("reward 0.500"));
  metrics.more = {{"entropy", 1.5},
                  {"clip_ratio/region_mean", 0.0},
                  {"kl", 0.01},
                  {"update_tokens_per_second", 1200.0}};
  CHECK_THAT(bar_line(metrics, kProgress, 300, {}),
             Contains("kl 0.01  entropy 1.50  1,200 tok/s trained  lr") && !Contains("nan"));
}

TEST_CASE("the bar fits into any width and leaves out the last figures first", "[metrics]") {
  auto busy = kProgress;
  busy.activity = "evaluating 3/12";
  for (int width = 0; width < 200; ++width)
    for (const auto& terminal :
         {Terminal{}, Terminal{true, true, true}, Terminal{true, false, true}})
      for (const auto& progress : {kProgress, busy}) {
        const auto line = bar_line(kMetrics, progress, width, terminal);
        if (columns(line) > width) FAIL(width << ": " << line);
      }
  CHECK_THAT(bar_line(kMetrics, kProgress, 60, {}), Contains("loss 0.4213") && !Contains("tok/s"));
  CHECK(bar_line(kMetrics, kProgress, 12, {}) == "120/200  60%");
  CHECK(bar_line(kMetrics, kProgress, 11, {}).empty());
  CHECK_THAT(bar_line(kMetrics, busy, 80, {}), Contains("evaluating 3/12"));
}

TEST_CASE("before the first step the bar promises nothing", "[metrics]") {
  const auto line = bar_line({}, {.total_steps = 200, .left_s = {}, .activity = ""}, 100, {});
  CHECK_THAT(line, Catch::StartsWith("  0/200   0%") && Contains("0:00<?") && !Contains("loss"));
}

TEST_CASE("a full bar is full and numbers that are none do not break the line", "[metrics]") {
  auto metrics = kMetrics;
  metrics.step = 200;
  CHECK_THAT(bar_line(metrics, kProgress, 100, {}), Contains("100%") && !Contains("-]"));
  metrics.step = 300;  // more steps than announced
  CHECK_THAT(bar_line(metrics, kProgress, 100, {}), Contains("100%"));
  metrics.loss = std::numeric_limits<double>::quiet_NaN();
  metrics.grad_norm = std::numeric_limits<double>::infinity();
  metrics.tokens_per_second = std::numeric_limits<double>::infinity();
  CHECK_THAT(bar_line(metrics, kProgress, 140, {}),
             Contains("loss nan") && Contains("grad inf") && Contains("? tok/s"));
}

TEST_CASE("a plain line names its figures", "[metrics]") {
  CHECK(plain_line(kMetrics, kProgress) ==
        "step 120/200 (60%)  loss 0.4213  lr 1.80e-04  grad norm 0.523  1,512 tokens/s (210 "
        "supervised)  1.0 GiB  2:10 gone, 1:26 left");
  CHECK(eval_line({.step = 50,
                   .eval_loss = 0.5,
                   .eval_perplexity = 1.6487,
                   .eval_mean_token_accuracy = 0.9,
                   .eval_num_tokens = 12'345,
                   .eval_runtime_s = 3.21}) ==
        "step 50: eval loss 0.5000, perplexity 1.649, token accuracy 0.900 (12,345 tokens in 3.2 "
        "s)");
}

TEST_CASE("times, sizes and rates read like a person writes them", "[metrics]") {
  CHECK(duration_text(0.4) == "0:00");
  CHECK(duration_text(754.9) == "12:34");
  CHECK(duration_text(3723) == "1:02:03");
  CHECK(duration_text(-1) == "0:00");
  CHECK(duration_text(std::numeric_limits<double>::infinity()) == "1000:00:00");
  CHECK(bytes_text(0) == "0 MiB");
  CHECK(bytes_text(std::int64_t{512} << 20) == "512 MiB");
  CHECK(bytes_text(std::int64_t{1536} << 20) == "1.5 GiB");
  CHECK(rate_text(0.523) == "0.52");
  CHECK(rate_text(999.6) == "1,000");
  CHECK(rate_text(1234567.0) == "1,234,567");
  CHECK(rate_text(std::numeric_limits<double>::quiet_NaN()) == "?");
}

TEST_CASE("a curve falls from the upper left to the lower right with its labels", "[metrics]") {
  CHECK(draw_curve({4, 3, 2, 1}, 26, 4, /*unicode=*/false) ==
        "  4 +****\n"
        "    |    *******\n"
        "    |           ******\n"
        "  1 +                 ****\n"
        "    +---------------------\n"
        "     1                   4\n");
  const auto braille = draw_curve({4, 3, 2, 1}, 26, 4);
  CHECK_THAT(braille, Contains("\u2524") && Contains("\u2514\u2500"));
  CHECK(braille.find('*') == std::string::npos);
}

TEST_CASE("a curve has the size asked for, whatever the values", "[metrics]") {
  const auto infinity = std::numeric_limits<double>::infinity();
  std::vector<double> many;
  for (int i = 0; i < 10'000; ++i) many.push_back(1.0 / (1.0 + i));
  const std::vector<std::vector<double>> all = {{1.0},
                                                {2.0, 2.0},
                                                {0.0, 0.0},
                                                many,
                                                {1e308, -1e308},
                                                {1.0, std::nan(""), infinity, 0.5},
                                                {-1e-300, 1e-300}};
  for (const auto& values : all)
    for (const bool unicode : {false, true}) {
      std::istringstream lines(draw_curve(values, 60, 8, unicode, 700));
      int count = 0;
      for (std::string line; std::getline(lines, line); ++count) CHECK(columns(line) <= 60);
      CHECK(count == 10);
    }
  CHECK(draw_curve({}, 60, 8).empty());
  CHECK(draw_curve({infinity}, 60, 8).empty());
}

TEST_CASE("memory is what the kernel counts", "[metrics]") {
  const auto before = rss_bytes();
  CHECK(before > 1 << 20);
  {
    const std::vector<char> touched(std::size_t{64} << 20, 1);
    CHECK(rss_bytes() > before + (std::int64_t{60} << 20));
  }
  CHECK(peak_rss_bytes() > before + (std::int64_t{60} << 20));
}
