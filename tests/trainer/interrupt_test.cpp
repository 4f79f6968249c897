#include "trainer/sft/interrupt.hpp"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>

namespace tailor::trainer {
namespace {

/// Exit code of a child that runs `body`; 128 + signal where a signal ended it.
template <typename Body>
int in_child(const Body& body) {
  const pid_t child = fork();
  if (child == 0) {
    for (const int number : {SIGINT, SIGTERM})
      signal(number, SIG_DFL);  // the test program has its own
    body();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

TEST_CASE("the first signal only sets the flag") {
  const int signal_number = GENERATE(SIGINT, SIGTERM);
  const InterruptGuard guard;
  CHECK_FALSE(interrupted());
  raise(signal_number);
  CHECK(interrupted());
}

TEST_CASE("the second signal ends the process with 130") {
  CHECK(in_child([] {
          const InterruptGuard guard;
          raise(SIGTERM);
          raise(SIGINT);
        }) == kInterruptedExit);
}

TEST_CASE("behind the guard a signal does what it did before") {
  CHECK(in_child([] {
          { const InterruptGuard guard; }
          raise(SIGTERM);
        }) == 128 + SIGTERM);
}

TEST_CASE("a new guard starts without a signal") {
  {
    const InterruptGuard guard;
    raise(SIGINT);
  }
  const InterruptGuard guard;
  CHECK_FALSE(interrupted());
}

}  // namespace tailor::trainer
