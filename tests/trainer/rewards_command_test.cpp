#include <signal.h>

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "configs/reader.hpp"
#include "tests/trainer/rewards_children.hpp"
#include "trainer/rewards/child_process.hpp"

using namespace tailor::trainer;
using Catch::Matchers::Contains;
using tailor::configs::ConfigError;
using Values = std::vector<double>;

namespace {

RewardConfig config_of(const Programs& programs, std::vector<std::string> command) {
  RewardConfig config;
  config.kind = RewardKind::Command;
  config.command = std::move(command);
  config.cwd = programs.dir;
  config.timeout_s = 5;
  config.place = "job.yaml:9:5: rewards[0]";
  return config;
}

/// Answers by the completion, which may be an answer itself.
constexpr auto kShell = R"(#!/bin/sh
while read -r line; do
  case $line in
    *'"completion":"hang"'*) sleep 600 ;;
    *'"completion":"crash"'*) kill -ABRT $$ ;;
    *'"completion":"exit"'*) echo why >&2; exit 9 ;;
    *'"completion":"flood"'*) yes ;;
    *'"completion":"line"'*) head -c 1073741824 /dev/zero ;;
    *'"completion":"stderr"'*) head -c 1073741824 /dev/zero >&2; echo 1 ;;
    *'"completion":"words"'*) echo good ;;
    *'"completion":"blank"'*) echo ;;
    *'"completion":"nan"'*) echo '{"reward": NaN}' ;;
    *'"completion":"huge"'*) echo 1e999 ;;
    *'"completion":"other"'*) echo '{"score": 1}' ;;
    *'"completion":"text"'*) echo '{"reward": "1"}' ;;
    *'"completion":"null"'*) echo null ;;
    *'"completion":"object"'*) echo '{"reward": 0.25, "why": "x"}' ;;
    *) echo 0.5 ;;
  esac
done
)";

}  // namespace

TEST_CASE("a command answers a line of JSON with one", "[rewards]") {
  const Programs programs;
  programs.write("score.py", R"(
import json, sys
for line in sys.stdin:
    row = json.loads(line)
    assert row["prompt"][0]["content"] == "q"
    print(json.dumps({"reward": row["factor"] * len(row["completion"])}))
)");
  const auto reward = make_reward(config_of(programs, {"python3", "score.py"}));
  std::vector<std::string> completions;
  Values expected;
  for (std::size_t i = 0; i < 200; ++i) {
    completions.push_back(std::string(i * 997, 'x') + "\n");  // more than a pipe holds
    expected.push_back(static_cast<double>(2 * (i * 997 + 1)));
  }
  const auto samples = samples_of(completions, R"([{"role": "user", "content": "q"}])",
                                  R"({"factor": 2, "completion": "no"})");
  const auto scores = reward->score(samples);
  CHECK(values_of(scores) == expected);
  CHECK(faults_of(scores).empty());
}

TEST_CASE("a line that is no answer costs its sample only", "[rewards]") {
  const Programs programs;
  programs.write("score", kShell);
  const auto [text, value, reason] = GENERATE(table<std::string, double, std::string>({
      {"hang", -99, "1: timed out after 0.7 s"},
      {"crash", -99, "1: ended with signal 6 (Aborted)"},
      {"exit", -99, "1: ended with exit code 9: why"},
      {"flood", -99, "1: answered y, expected {\"reward\": ...} or a number"},
      {"line", -99, "1: wrote more than 16 MiB"},
      {"stderr", -99, "1: wrote more than 16 MiB"},
      {"words", -99, "1: answered good, expected"},
      {"blank", -99, "1: answered , expected"},
      {"nan", -99, "1: answered {\"reward\": NaN}, expected"},
      {"huge", -99, "1: answered 1e999, expected"},
      {"other", -99, "1: answered {\"score\": 1}, expected"},
      {"text", -99, "1: answered \"1\", expected a number or null"},
      {"null", -99, ""},
      {"object", 0.25, ""},
  }));
  CAPTURE(text);
  {
    const Stopwatch watch;
    auto config = config_of(programs, {"./score"});
    if (text == "hang") config.timeout_s = 0.7;
    const auto reward = make_reward(config);
    const auto scores = scores_of(*reward, {"ok", text, "good", "more"});
    CHECK(values_of(scores) == Values{0.5, value, 0.5, 0.5});
    CHECK_THAT(faults_of(scores), Contains(reason));
    CHECK(scores.faults.size() == (reason.empty() ? 0 : 1));
    CHECK(values_of(scores_of(*reward, {"next"})) == Values{0.5});
    CHECK(watch.seconds() < 60);  // on a busy machine
  }
  CHECK(num_left() == 0);
}

TEST_CASE("nobody waits for a command once it is given up", "[rewards]") {
  const Programs programs;
  programs.write("score", kShell);
  auto config = config_of(programs, {"./score"});
  config.timeout_s = 60;
  const auto reward = make_reward(config);
  CHECK(gives_up_soon(*reward, samples_of({"good", "hang", "good"})));
  CHECK_THROWS_AS(scores_of(*reward, {"good"}), ScoringCancelled);
}

TEST_CASE("a command that does not read does not stop this program", "[rewards]") {
  const Programs programs;
  programs.write("deaf", "#!/bin/sh\nexec 0<&-\nwhile :; do sleep 1; done\n");
  ::signal(SIGPIPE, SIG_DFL);
  {
    auto config = config_of(programs, {"./deaf"});
    config.timeout_s = 0.7;
    const auto reward = make_reward(config);
    const auto scores = scores_of(*reward, {std::string(1 << 20, 'x')});
    CHECK(values_of(scores) == Values{-99});
    CHECK_THAT(faults_of(scores), Contains("timed out"));
  }
  CHECK(num_left() == 0);
}

TEST_CASE("a command that ends after each answer is started anew", "[rewards]") {
  const Programs programs;
  programs.write("once", "#!/bin/sh\nread -r line; echo 1\n");
  auto config = config_of(programs, {"./once"});
  config.max_restarts = 2;
  const auto reward = make_reward(config);
  CHECK(values_of(scores_of(*reward, {"a", "b", "c"})) == Values{1, 1, 1});
  CHECK_THROWS_WITH(scores_of(*reward, {"d"}),
                    Contains("its children were replaced max_restarts (2) times; of the last one: "
                             "ended with exit code 0"));
}

TEST_CASE("a command that writes more than its answers is found out", "[rewards]") {
  const Programs programs;
  programs.write("wordy", "#!/bin/sh\nwhile read -r line; do echo 1; echo 2; done\n");
  const auto scores = scores_of(*make_reward(config_of(programs, {"./wordy"})), {"a", "b"});
  CHECK(values_of(scores) == Values{-99, -99});
  CHECK_THAT(faults_of(scores), Contains("1: answered more than one line: 1 and 2"));
}

TEST_CASE("a command that cannot run is told before anything is sampled", "[rewards]") {
  const Programs programs;
  const auto problem = [&](std::vector<std::string> command) {
    return start_problem(config_of(programs, std::move(command)));
  };
  CHECK_THAT(
      problem({"program-of-no-machine"}),
      Contains("job.yaml:9:5: rewards[0].command: there is no program") && Contains("on PATH"));
  CHECK_THAT(problem({"./missing"}), Contains("no such program, or it may not be run: "));
  programs.write("interpreter", "#!/no/such/interpreter\n");
#ifdef __SANITIZE_THREAD__  // makes vfork a fork, whose child cannot tell its parent why
  CHECK_THAT(problem({"./interpreter"}), Contains("it ended at once with exit code 127"));
#else
  CHECK_THAT(problem({"./interpreter"}), Contains("No such file or directory"));
#endif
  CHECK_THAT(problem({"sh", "-c", "echo no >&2; exit 3"}),
             Contains("it ended at once with exit code 3: no"));
  std::filesystem::permissions(programs.write("data", "x"), std::filesystem::perms::owner_read);
  CHECK_THAT(problem({"./data"}), Contains("may not be run"));
}

TEST_CASE("a program that is to be killed", "[.]") {
  const Programs programs;
  programs.write("score", "#!/bin/sh\nread -r line; sleep 7654 & sleep 7654\n");
  auto config = config_of(programs, {"./score"});
  config.timeout_s = 100;
  scores_of(*make_reward(config), {"a"});
}

TEST_CASE("children die with this program, and what they started too", "[rewards]") {
  const auto count = [] {
    int sleepers = 0;
    for (const auto& process : running_processes()) {
      std::ifstream stream("/proc/" + std::to_string(process.pid) + "/cmdline");
      const std::string text{std::istreambuf_iterator<char>(stream), {}};
      sleepers += text == std::string("sleep\0007654\0", 11);
    }
    return sleepers;
  };
  const auto becomes = [&](int wanted) {
    const Stopwatch watch;
    while (count() != wanted && watch.seconds() < 60) ::usleep(10000);
    return count() == wanted;
  };
  Child victim({.program = "/proc/self/exe",
                .arguments = {"victim", "a program that is to be killed"},
                .cwd = {}});
  CHECK(becomes(2));
  ::kill(victim.pid(), SIGKILL);
  CHECK(becomes(0));
}
