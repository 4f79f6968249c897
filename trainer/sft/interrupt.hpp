#pragma once

namespace tailor::trainer {

/// While one lives, the first SIGINT or SIGTERM only sets a flag, so that a step can be finished
/// and saved; a second one ends the process at once with code 130. One at a time.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();  // the handlers from before are back
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
};

bool interrupted();  // a signal came since the guard was made

constexpr int kInterruptedExit = 130;

}  // namespace tailor::trainer
