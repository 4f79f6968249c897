#include "trainer/sft/interrupt.hpp"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <cstddef>

namespace tailor::trainer {
namespace {

volatile sig_atomic_t flag = 0;
constexpr std::array kSignals{SIGINT, SIGTERM};
std::array<struct sigaction, kSignals.size()> before;

extern "C" void on_signal(int /*signal*/) {
  if (flag != 0) _exit(kInterruptedExit);
  flag = 1;
}

}  // namespace

InterruptGuard::InterruptGuard() {
  flag = 0;
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
