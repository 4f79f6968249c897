#include "trainer/metrics/jsonl_log.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

#include "configs/reader.hpp"

using namespace tailor::trainer;

namespace {

class TemporaryPath {
 public:
  TemporaryPath()
      : path_(std::filesystem::temp_directory_path() /
              ("tailor-metrics-" + std::to_string(getpid()) + ".jsonl")) {
    std::filesystem::remove(path_);
  }
  ~TemporaryPath() { std::filesystem::remove(path_); }
  const std::filesystem::path& get() const { return path_; }
  std::string content() const {
    std::ostringstream all;
    all << std::ifstream(path_, std::ios::binary).rdbuf();
    return all.str();
  }

 private:
  std::filesystem::path path_;
};

std::vector<Metric> step_line(std::int64_t step) {
  StepMetrics metrics;
  metrics.step = step;
  metrics.loss = 1.0 / static_cast<double>(step);
  return fields(metrics);
}

void write_steps(JsonlLog& log, std::int64_t first, std::int64_t last) {
  for (auto step = first; step <= last; ++step) {
    log.write(step_line(step));
    if (step % 2 == 0) log.write(fields(EvalMetrics{.step = step, .eval_loss = 0.5}));
  }
}

}  // namespace

TEST_CASE("a line has the names in their order and numbers that read back the same", "[metrics]") {
  const StepMetrics metrics{.step = 3,
                            .epoch = 0.1,
                            .loss = 2.0,
                            .learning_rate = 1.0 / 3.0,
                            .grad_norm = 1e-300,
                            .mean_token_accuracy = 0.5,
                            .num_tokens = 9007199254740993,
                            .tokens_per_second = 123456789.125,
                            .supervised_tokens_per_second = 0.0,
                            .step_time_s = 1e22,
                            .rss_bytes = -1};
  const auto line = json_line(fields(metrics));
  CHECK(line ==
        R"({"step": 3, "epoch": 0.1, "loss": 2.0, "learning_rate": 0.3333333333333333, )"
        R"("grad_norm": 1e-300, "mean_token_accuracy": 0.5, "num_tokens": 9007199254740993, )"
        R"("tokens_per_second": 123456789.125, "supervised_tokens_per_second": 0.0, )"
        R"("step_time_s": 1e+22, "rss_bytes": -1})");
  CHECK(std::stod("0.3333333333333333") == 1.0 / 3.0);
}

TEST_CASE("what JSON has no number for is written as text, never as null", "[metrics]") {
  const auto infinity = std::numeric_limits<double>::infinity();
  const auto line = json_line({{"a", std::nan("")}, {"b", infinity}, {"c", -infinity}});
  CHECK(line == R"({"a": "nan", "b": "inf", "c": "-inf"})");
}

TEST_CASE("a resumed log ends with the lines of an uninterrupted one", "[metrics]") {
  const TemporaryPath path;
  {
    JsonlLog log(path.get(), 0);
    write_steps(log, 1, 6);
  }
  const auto whole = path.content();
  const std::string torn = GENERATE(std::string(), std::string("{\"step\": 4, \"lo"),
                                    std::string("{\"step\": 4}\n\0\0\0", 15));
  std::ofstream(path.get(), std::ios::binary | std::ios::app) << torn;
  for (const std::int64_t from : {6, 4, 1, 2}) {
    JsonlLog log(path.get(), from);
    CHECK(log.kept_numbers().size() == static_cast<std::size_t>(from));
    write_steps(log, from + 1, 6);
    CHECK(path.content() == whole);
  }
}

TEST_CASE("an evaluation that is made again is taken away on resuming", "[metrics]") {
  const TemporaryPath path;
  const std::string steps =
                        "{\"step\": 1, \"loss\": 2.0}\n{\"step\": 1, \"eval_loss\": 3.0}\n"
                        "{\"step\": 2, \"loss\": 1.0}\n",
                    evaluation = "{\"step\": 2, \"eval_loss\": 2.5}\n";
  const bool keeps = GENERATE(false, true);
  std::ofstream(path.get()) << steps + evaluation;
  const JsonlLog log(path.get(), 2, "loss", keeps);
  CHECK(path.content() == (keeps ? steps + evaluation : steps));
}

TEST_CASE("an unfinished last line is taken away on resuming", "[metrics]") {
  const TemporaryPath path;
  {
    JsonlLog log(path.get(), 0);
    write_steps(log, 1, 1);
  }
  const auto first = path.content();
  for (const auto* rest : {"{\"step\": 2, \"loss\": 0.", "{\"step\": 2}", "garbage\n", "\n"}) {
    CAPTURE(rest);
    std::ofstream(path.get(), std::ios::binary | std::ios::app) << rest;
    const JsonlLog log(path.get(), 2);
    CHECK(path.content() == first);
    CHECK(log.kept_numbers() == std::vector<double>{1.0});
  }
}

TEST_CASE("a fresh start keeps nothing", "[metrics]") {
  const TemporaryPath path;
  std::ofstream(path.get()) << "{\"step\": 0, \"loss\": 1.0}\n";
  const JsonlLog log(path.get(), 0);
  CHECK(path.content().empty());
}

TEST_CASE("a line is in the file when write returns, whatever happens to the process",
          "[metrics]") {
  const TemporaryPath path;
  const auto child = fork();
  if (child == 0) {
    JsonlLog log(path.get(), 0);
    write_steps(log, 1, 3);
    raise(SIGKILL);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WIFSIGNALED(status));
  const auto content = path.content();
  CHECK(std::count(content.begin(), content.end(), '\n') == 4);
  CHECK(content.ends_with("}\n"));
}

TEST_CASE("a file that cannot be written is named with the reason", "[metrics]") {
  CHECK_THROWS_WITH(JsonlLog("/nowhere/metrics.jsonl", 0),
                    "/nowhere/metrics.jsonl: cannot write the metrics: No such file or directory");
  if (!std::filesystem::exists("/dev/full")) return;
  const TemporaryPath link;
  std::filesystem::create_symlink("/dev/full", link.get());
  // A device cannot be cut back: refused at the start instead of at the first line.
  CHECK_THROWS_AS(JsonlLog(link.get(), 0), tailor::configs::ConfigError);
}
