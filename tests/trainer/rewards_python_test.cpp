#include <signal.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <string>
#include <vector>

#include "configs/reader.hpp"
#include "tests/trainer/rewards_children.hpp"

using namespace tailor::trainer;
using Catch::Matchers::Contains;
using tailor::configs::ConfigError;
using Values = std::vector<double>;

namespace {

/// What goes wrong is named by the completion; else the reward is its length.
constexpr auto kFaulty = R"(
import os, signal, subprocess, sys, time

def reward(completions, **columns):
    return [one(text) for text in completions]

def short(completions):
    return [] if "bad" in completions else [1.0] * len(completions)

def one(text):
    if text == "hang":
        time.sleep(600)
    elif text == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif text == "exit":
        sys.stderr.write("first\nlast words\n")
        os._exit(3)
    elif text == "sysexit":
        sys.exit(4)
    elif text == "raise":
        raise ValueError("bad sample")
    elif text == "nan":
        return float("nan")
    elif text == "inf":
        return float("-inf")
    elif text == "huge":
        return -1e300
    elif text == "text":
        return "1.0"
    elif text == "list":
        return [1.0]
    elif text == "none":
        return None
    elif text == "flood":
        for _ in range(1024):
            os.write(1, b"x" * (1 << 20))
    elif text == "print":
        print('{"rewards": [99]}', flush=True)
        os.write(1, b'{"rewards": [99]}\n')
        os.write(2, b'{"rewards": [99]}\n')
        sys.__stdout__.write('{"rewards": [99]}\n')
        subprocess.run(["echo", '{"rewards": [99]}'])
    elif text == "memory":
        return float(len(bytearray(4 << 30)))
    elif text == "bomb":
        while True:
            os.fork()
    elif text == "fork":
        os.fork()
    elif text == "daemons":
        for _ in range(3):
            subprocess.Popen(["sleep", "600"], start_new_session=True)
        os._exit(0)
    elif text == "orphans and hang":
        for _ in range(3):
            subprocess.Popen("sleep 600 & setsid sleep 600 & exit 0", shell=True).wait()
        time.sleep(600)
    elif text == "ignore":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        while True:
            pass
    elif text == "close":
        os.closerange(0, 100)
    elif text == "recursion":
        return one(text)
    return float(len(text))
)";

RewardConfig config_of(const Programs& programs, const std::string& text,
                       const std::string& function = "reward") {
  RewardConfig config;
  config.kind = RewardKind::Python;
  config.file = programs.write("reward.py", text);
  config.function = function;
  config.cwd = programs.dir;
  config.timeout_s = 5;
  config.memory_limit_mb = 1024;
  config.place = "job.yaml:9:5: rewards[0]";
  return config;
}

}  // namespace

TEST_CASE("a function gets what TRL would give it", "[rewards]") {
  const Programs programs;
  const auto config = config_of(programs, R"(
import json, sys
from dataclasses import dataclass

@dataclass
class Note:
    text: str

def reward(prompts, completions, answer, **columns):
    print("this is no answer")
    out = []
    for prompt, completion, right, level in zip(prompts, completions, answer, columns["level"]):
        if isinstance(prompt, list):
            assert prompt[-1]["role"] == "user", prompt
            assert len(completion) == 1 and completion[0]["role"] == "assistant", completion
            completion = completion[0]["content"]
        out.append(10.0 * (completion == right) + (level or 0))
    return out

def only_completions(completions):
    return [True, 0.5] + [None] * (len(completions) - 2)

async def later(prompts, completions):
    return tuple(len(completion) for completion in completions)
)");
  std::vector<Judged> samples{
      {.prompt_json = "\"p\"", .completion = "a\xFF", .columns_json = R"({"answer": "a"})"},
      {.prompt_json = R"([{"role": "user", "content": "q"}])",
       .completion = "ü\n\"",
       .columns_json = R"({"answer": "ü\n\"", "level": 2, "prompts": "no"})"}};
  CHECK(values_of(make_reward(config)->score(samples)) == Values{0, 12});
  auto other = config;
  other.function = "only_completions";
  const auto scores = scores_of(*make_reward(other), {"a", "b", "c"});
  CHECK(values_of(scores) == Values{1, 0.5, -99});
  CHECK(scores.faults.empty());  // None is no fault
  other.function = "later";
  CHECK(values_of(scores_of(*make_reward(other), {"a", "bc", ""})) == Values{1, 2, 0});
  CHECK(scores_of(*make_reward(other), {}).values.empty());
  CHECK(num_left() == 0);
}

TEST_CASE("a sample that goes wrong costs itself only", "[rewards]") {
  const auto [text, reason] = GENERATE(table<std::string, std::string>({
      {"hang", "1: timed out after 0.7 s"},
      {"segv", "1: ended with signal 11 (Segmentation fault)"},
      {"exit", "1: ended with exit code 3: last words"},
      {"sysexit", "1: line 19: SystemExit: 4"},
      {"raise", "1: line 21: ValueError: bad sample"},
      {"nan", "1: answered nan, expected a finite number or None"},
      {"inf", "1: answered -inf, expected a finite number or None"},
      {"huge", "1: answered -1e+300, expected at most 1e100 in size"},
      {"text", "1: answered text, '1.0', expected a number or None"},
      {"list", "1: answered a list, expected a number or None (TypeError)"},
      {"flood", "1: wrote more than 16 MiB"},
      {"memory", "MemoryError"},
      {"bomb", "1: "},
      {"daemons", "1: ended with exit code 0"},
      {"orphans and hang", "1: timed out after 0.7 s"},
      {"ignore", "1: timed out after 0.7 s"},
      {"close", "1: ended with exit code"},
      {"recursion", "RecursionError"},
  }));
  // A bomb is found by its processes, or by its time where the machine is very busy.
  CAPTURE(text);
  const Programs programs;
  {
    const Stopwatch watch;
    auto config = config_of(programs, kFaulty);
    if (reason.find("timed out") != std::string::npos) config.timeout_s = 0.7;
    const auto reward = make_reward(config);
    const auto scores = scores_of(*reward, {"ok", text, "good"});
    CHECK(values_of(scores) == Values{2, -99, 4});
    CHECK_THAT(faults_of(scores), Contains(reason));
    CHECK(scores.faults.size() == 1);
    const auto next = scores_of(*reward, {"fine", "too"});
    CHECK(values_of(next) == Values{4, 3});
    CHECK(next.faults.empty());
    CHECK(watch.seconds() < 60);  // on a busy machine
  }
  CHECK(num_left() == 0);
}

TEST_CASE("what a function prints, forks or leaves out is no answer", "[rewards]") {
  const Programs programs;
  {
    const auto reward = make_reward(config_of(programs, kFaulty));
    for (const std::string text : {"print", "fork"}) {
      CAPTURE(text);
      const auto scores = scores_of(*reward, {"ok", text, "good"});
      CHECK(values_of(scores) == Values{2, static_cast<double>(text.size()), 4});
      CHECK(values_of(scores_of(*reward, {"fine"})) == Values{4});
    }
    const auto scores = scores_of(*reward, {"ok", "none", "good"});
    CHECK(values_of(scores) == Values{2, -99, 4});
    CHECK(scores.faults.empty());
    const auto counts = make_reward(config_of(programs, kFaulty, "short"));
    const auto wrong = scores_of(*counts, {"ok", "bad", "good"});
    CHECK(values_of(wrong) == Values{1, -99, 1});
    CHECK(faults_of(wrong) == "1: answered 0 rewards for 1 sample");
  }
  CHECK(num_left() == 0);
}

TEST_CASE("many workers give the same scores in the samples' order", "[rewards]") {
  const Programs programs;
  auto config = config_of(programs, kFaulty);
  std::vector<std::string> completions;
  Values expected;
  for (std::size_t i = 0; i < 14; ++i) {
    completions.push_back(i % 9 == 4 ? "exit" : std::string(i, 'x'));
    expected.push_back(i % 9 == 4 ? -99 : static_cast<double>(i));
  }
  for (const std::int64_t workers : {1, 3}) {
    config.workers = workers;
    const auto reward = make_reward(config);
    const auto scores = scores_of(*reward, completions);
    CHECK(values_of(scores) == expected);
    REQUIRE(scores.faults.size() == 2);
    CHECK(scores.faults[0].index == 4);
    CHECK(scores.faults[1].index == 13);
    CHECK(values_of(scores_of(*reward, completions)) == expected);
  }
  CHECK(num_left() == 0);
}

TEST_CASE("restarts are bounded", "[rewards]") {
  const Programs programs;
  auto config = config_of(programs, kFaulty);
  config.max_restarts = 2;
  {
    const auto reward = make_reward(config);
    // The batch fails, then its second sample.
    const auto scores = scores_of(*reward, {"ok", "exit", "fine"});
    CHECK(values_of(scores) == Values{2, -99, 4});
    CHECK_THAT(faults_of(scores), Contains("1: ended with exit code 3"));
    // Nobody is left for the second sample.
    const auto lost = Contains(
        "its children were replaced max_restarts (2) times; of the last one: "
        "ended with exit code 3: last words");
    CHECK_THROWS_WITH(scores_of(*reward, {"exit", "good"}), lost);
    CHECK_THROWS_WITH(scores_of(*reward, {"ok"}), lost);
  }
  CHECK(num_left() == 0);
}

TEST_CASE("a batch that is only long is asked for in parts", "[rewards]") {
  const Programs programs;
  auto config = config_of(programs, R"(
import time
def reward(completions):
    time.sleep(0.6 * len(completions))
    return [1.0] * len(completions)
)");
  config.timeout_s = 2;  // not enough for four
  const auto reward = make_reward(config);
  const std::vector<std::string> four(4, "x");
  for (int i = 0; i < 2; ++i) {
    const auto scores = scores_of(*reward, four);
    CHECK(values_of(scores) == Values(4, 1.0));
    CHECK(scores.faults.empty());
  }
}

TEST_CASE("a file that cannot serve is told before anything is sampled", "[rewards]") {
  const Programs programs;
  const auto problem = [&](const std::string& text, const std::string& function = "reward") {
    return start_problem(config_of(programs, text, function));
  };
  CHECK_THAT(problem("import nothing_of_that_name\n"),
             Contains("job.yaml:9:5: rewards[0].python: ") &&
                 Contains("reward.py: line 1: ModuleNotFoundError: No module named"));
  CHECK_THAT(problem("x = 1\ndef reward(:\n"), Contains("line 2: SyntaxError: "));
  CHECK_THAT(problem("def helper(): pass\nhelper().x\n"), Contains("line 2: AttributeError: "));
  CHECK_THAT(problem("import sys\nsys.exit('no')\n"), Contains("SystemExit: no"));
  CHECK_THAT(problem("import os\nos._exit(7)\n"), Contains("ended with exit code 7"));
  CHECK_THAT(problem("def rewrad(completions): pass\n"),
             Contains("has no function \"reward\"; did you mean \"rewrad\"?"));
  CHECK_THAT(problem("def f(): pass\ndef g(): pass\n"),
             Contains("has no function \"reward\"; it has f, g"));
  CHECK_THAT(problem("reward = 3\n"), Contains("has no function \"reward\""));
  CHECK_THAT(problem("x = bytearray(4 << 30)\n"),
             Contains("MemoryError (memory_limit_mb is 1024)"));
  CHECK(problem("print('hello')\ndef reward(completions): pass\n").empty());

  auto config = config_of(programs, "import time\ntime.sleep(600)\n");
  config.start_timeout_s = 0.5;
  CHECK_THAT(start_problem(config), Contains("did not start within 0.5 s"));
  config =
      config_of(programs, "import time\ntime.sleep(1.2)\ndef reward(completions): return [1]\n");
  CHECK(values_of(scores_of(*make_reward(config), {"slow start"})) == Values{1});
  config.python_executable = "python-of-no-machine";
  CHECK_THAT(
      start_problem(config),
      Contains("rewards[0].python_executable: there is no program \"python-of-no-machine\""));
  CHECK(num_left() == 0);
}

TEST_CASE("a child sees neither this program's files nor its MPI", "[rewards]") {
  ::setenv("OMPI_COMM_WORLD_RANK", "3", 1);
  const Programs programs;
  const auto secret = programs.write("secret", "x");
  std::ifstream open_here(secret);
  const auto reward = make_reward(config_of(programs, R"(
import os
names = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
def reward(completions):
    assert not any(name.endswith("secret") for name in names), names
    assert not any(name.startswith("OMPI_") for name in os.environ)
    assert os.getpgid(0) == os.getpid() and os.getcwd() == os.path.dirname(__file__)
    assert os.read(0, 1) == b""
    return [1.0] * len(completions)
)"));
  CHECK(faults_of(scores_of(*reward, {"a"})).empty());
  ::unsetenv("OMPI_COMM_WORLD_RANK");
}

TEST_CASE("a file may have the name of a module of Python", "[rewards]") {
  const Programs programs;
  auto config = config_of(programs, "");
  for (const auto* name : {"json.py", "inspect.py", "a-b.py"}) {
    config.file =
        programs.write(name, "import json\ndef reward(completions): return [json.loads('1')]\n");
    CHECK(values_of(scores_of(*make_reward(config), {"a"})) == Values{1});
  }
}
