#pragma once

namespace tailor::trainer {

/// While one lives, the first SIGINT, SIGTERM or SIGUSR1 (which mpirun passes on to its ranks; at
/// the others it kills them) only sets a flag, so that a step can be finished and saved; a second
/// one ends the process at once with code 130. Each says so on stderr, unless `tells_user` is
/// false. One at a time.
class InterruptGuard {
 public:
  explicit InterruptGuard(bool tells_user = true);
  ~InterruptGuard();  // the handlers from before are back
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
};

bool interrupted();  // a signal came since the guard was made

constexpr int kInterruptedExit = 130;

}  // namespace tailor::trainer
