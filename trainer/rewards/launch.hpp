#pragma once

#include <sys/resource.h>
#include <sys/types.h>
#include <unistd.h>

namespace tailor::trainer {

/// All that a child needs between vfork and exec, where only system calls are allowed.
struct Launch {
  const char* program;
  char* const* arguments;
  char* const* environment;
  const char* cwd;  // null: stay
  int input, output, errors;
  rlim_t memory_limit = RLIM_INFINITY;
  pid_t parent = ::getpid();
  bool dies_with_parent = true;
};

/// Starts a program that leads a process group of its own; -1, with errno, where there can be no
/// process. `error`, 0 before, is why the program could not be run: then the child has ended. Each
/// child is to be waited for by reap() or wait_for(), or given up by disown().
pid_t launch_child(const Launch& launch, volatile int& error);

/// Whether the child has ended; then its number is free. Does not wait.
bool reap(pid_t child);
void wait_for(pid_t child);
/// From now on reap_orphans() sees to it.
void disown(pid_t child);

/// Waits for those children of this process that have ended and that it did not start: what rewards
/// started and left became its children when their own parents ended, and would keep their process
/// numbers as long as it lives. Takes nobody's status away: those of launched children stay, and
/// those of this process's own group, where libraries have their children. Does not block.
void reap_orphans();

}  // namespace tailor::trainer
