#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <string>
#include <thread>

#include "tests/trainer/rewards_children.hpp"
#include "trainer/rewards/child_process.hpp"
#include "trainer/rewards/launch.hpp"
#include "trainer/rewards/worker_pool.hpp"

using namespace tailor::trainer;
using Catch::Matchers::Contains;
using std::chrono::milliseconds;

namespace {

/// Nothing can be opened while it lives, so that no child can be started.
class NoFiles {
 public:
  NoFiles() {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    const rlimit none{3, before_.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &none);
  }
  ~NoFiles() { ::setrlimit(RLIMIT_NOFILE, &before_); }
  NoFiles(const NoFiles&) = delete;
  NoFiles& operator=(const NoFiles&) = delete;

 private:
  rlimit before_{};
};

/// Children that answer with the line they got, or end at "crash".
PoolOptions echoes(double start_patience_s) {
  constexpr auto kScript =
      R"(while read -r line; do [ "$line" = crash ] && exit 3; echo "$line"; done)";
  return {.child = {.program = "/bin/sh", .arguments = {"sh", "-c", kScript}, .cwd = {}},
          .workers = 1,
          .timeout_s = 60,
          .start_timeout_s = {},
          .greeting_problem = {},
          .start_patience_s = start_patience_s};
}

/// The child's line, or the fault.
std::string answer_of(WorkerPool& pool, const std::string& line) {
  const std::atomic<bool> cancelled = false;
  std::string answer;
  pool.run(
      {{.request = line + '\n', .samples = {0}}},
      [&](const Call&, const Outcome& outcome) {
        answer = outcome.line.value_or(outcome.fault);
        return std::vector<Call>();
      },
      cancelled);
  return answer;
}

int num_zombies() {
  int count = 0;
  for (const auto& process : running_processes())
    count += process.zombie && process.parent == ::getpid();
  return count;
}

/// A process that holds another as a debugger does; -1 where this machine does not allow it.
pid_t debugger_of(pid_t victim) {
  std::array<int, 2> ends{};
  REQUIRE(::pipe(ends.data()) == 0);
  const auto pid = ::fork();
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const char holds = ::ptrace(PTRACE_SEIZE, victim, nullptr, nullptr) == 0 ? 'y' : 'n';
    if (::write(ends[1], &holds, 1) == 1)
      while (true) ::pause();
    ::_exit(1);
  }
  char holds = 'n';
  REQUIRE(::read(ends[0], &holds, 1) == 1);
  ::close(ends[0]);
  ::close(ends[1]);
  if (holds == 'y') return pid;
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
  return -1;
}

}  // namespace

TEST_CASE("starts that fail for a while cost no sample", "[rewards]") {
  WorkerPool pool(echoes(/*start_patience_s=*/5));
  // The second time is longer after the first than starts may fail: it is a failure of its own.
  for (const int pause_s : {0, 6}) {
    std::this_thread::sleep_for(std::chrono::seconds(pause_s));
    CHECK_THAT(answer_of(pool, "crash"), Contains("ended with exit code 3"));
    auto no_files = std::make_unique<NoFiles>();
    std::thread other([&] {
      std::this_thread::sleep_for(milliseconds(800));
      no_files.reset();
    });
    CHECK(answer_of(pool, "one") == "one");
    other.join();
    CHECK(answer_of(pool, "two") == "two");
  }
}

TEST_CASE("a reward whose children can never be started again is lost", "[rewards]") {
  WorkerPool pool(echoes(/*start_patience_s=*/0.5));
  answer_of(pool, "crash");
  const Stopwatch watch;
  {
    const NoFiles no_files;
    CHECK_THROWS_WITH(answer_of(pool, "one"), Contains("its children cannot be started: ") &&
                                                  Contains("Too many open files"));
  }
  CHECK(watch.seconds() > 0.4);
  CHECK(watch.seconds() < 30);  // on a busy machine
  CHECK_THROWS_AS(answer_of(pool, "one"), RewardLost);
}

TEST_CASE("starts that fail are given up when scoring is", "[rewards]") {
  WorkerPool pool(echoes(/*start_patience_s=*/60));
  answer_of(pool, "crash");
  const NoFiles no_files;
  std::atomic<bool> cancelled = false;
  std::thread other([&] {
    std::this_thread::sleep_for(milliseconds(300));
    cancelled = true;
  });
  const Stopwatch watch;
  CHECK_THROWS_AS(pool.run(
                      {{.request = "one\n", .samples = {0}}},
                      [](const Call&, const Outcome&) { return std::vector<Call>(); }, cancelled),
                  ScoringCancelled);
  other.join();
  CHECK(watch.seconds() < 30);  // on a busy machine
}

TEST_CASE("a child that does not end is left behind", "[rewards]") {
  Child child({.program = "/bin/sleep", .arguments = {"sleep", "600"}, .cwd = {}});
  const auto pid = child.pid();
  const auto debugger = debugger_of(pid);
  if (debugger < 0) {
    WARN("no process may hold another here: not tried");
    return;
  }
  const Stopwatch watch;
  child.kill();
  CHECK(watch.seconds() < 60);  // waiting for it takes as long as the debugger lives
  CHECK(::kill(pid, 0) == 0);
  reap_orphans();  // does not wait either
  ::kill(debugger, SIGKILL);
  CHECK(::waitpid(debugger, nullptr, 0) == debugger);
  const Stopwatch until_gone;
  while (::kill(pid, 0) == 0 && until_gone.seconds() < 30) {
    reap_orphans();
    ::usleep(1000);
  }
  CHECK(::kill(pid, 0) == -1);
}

TEST_CASE("what rewards start and leave is no zombie for long", "[rewards]") {
  const Programs programs;
  RewardConfig config;
  config.kind = RewardKind::Python;
  config.file = programs.write("daemons.py", R"(
import os

def reward(completions):
    for i in range(50 if completions[0] == "fork" else 0):
        parent = os.fork()
        if parent == 0:
            if os.fork() == 0 and i % 2:
                os.setsid()
            os._exit(0)
        os.waitpid(parent, 0)
    return [1.0] * len(completions)
)");
  config.function = "reward";
  config.cwd = programs.dir;
  config.timeout_s = 60;
  const auto reward = make_reward(config);
  CHECK(values_of(scores_of(*reward, {"fork"})) == std::vector<double>{1});
  // The last ones may still be about to end.
  const Stopwatch watch;
  int left = num_zombies();
  while (left > 0 && watch.seconds() < 30) {
    scores_of(*reward, {"rest"});
    left = num_zombies();
  }
  CHECK(left == 0);
}

TEST_CASE("nobody's status is taken away with what rewards leave", "[rewards]") {
  Child child({.program = "/bin/sh", .arguments = {"sh", "-c", "exit 7"}, .cwd = {}});
  const auto other = ::fork();
  if (other == 0) ::_exit(5);
  const Stopwatch watch;
  while (num_zombies() < 2 && watch.seconds() < 30) ::usleep(1000);
  REQUIRE(num_zombies() == 2);
  reap_orphans();
  int status = 0;
  CHECK(::waitpid(other, &status, 0) == other);
  CHECK(WEXITSTATUS(status) == 5);
  CHECK(child.has_ended());
  CHECK(child.how_it_ended() == "exit code 7");
}
