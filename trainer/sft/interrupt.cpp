#include "trainer/sft/interrupt.hpp"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <string_view>

namespace tailor::trainer {
namespace {

volatile sig_atomic_t flag = 0;
constexpr std::array kSignals{SIGINT, SIGTERM, SIGUSR1};
std::array<struct sigaction, kSignals.size()> before;

volatile sig_atomic_t tells = 0;

/// The only way to print that a signal handler may take. On a line of its own: a progress bar may
/// stand there.
void tell(std::string_view line) {
  if (tells == 0) return;
  const auto ignored = write(STDERR_FILENO, line.data(), line.size());
  static_cast<void>(ignored);
}

extern "C" void on_signal(int /*signal*/) {
  const int saved_errno = errno;
  if (flag != 0) {
    tell("\nended at once: the steps since the last checkpoint are lost\n");
    _exit(kInterruptedExit);
  }
  flag = 1;
  tell("\ninterrupted: what has begun is saved first; once more ends at once, unsaved\n");
  errno = saved_errno;
}

}  // namespace

InterruptGuard::InterruptGuard(bool tells_user) {
  flag = 0;
  tells = tells_user ? 1 : 0;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;  // a write to disk goes on
  sigemptyset(&action.sa_mask);
  for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &action, &before[i]);
}

InterruptGuard::~InterruptGuard() {
  for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before[i], nullptr);
}

bool interrupted() { return flag != 0; }

}  // namespace tailor::trainer
