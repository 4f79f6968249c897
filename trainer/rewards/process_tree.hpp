#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace tailor::trainer {

/// One line of /proc.
struct ProcessEntry {
  pid_t pid, parent, group, session;
  bool zombie;
};
std::vector<ProcessEntry> running_processes();

/// Those of `all`, zombies left out, that `root` started and that still show it: its process group,
/// its session and what descends from it.
std::vector<pid_t> processes_under(pid_t root, const std::vector<ProcessEntry>& all);

/// The variable by which a child's own children are known again after they left its group and its
/// session and lost their parent (daemons).
inline constexpr const char* kMarkVariable = "TAILOR_REWARD_CHILD";

/// Kills `root`, a child of this process that leads its group, and all that it started: its group
/// at once, then whatever still descends from it or has its `mark` in the environment, until none
/// is left or thirty seconds are over. What escapes is a process that has left group and session,
/// has lost its parent and has wiped its environment. Waits for those that became children of this
/// process when their parent died; `root` itself is left for waitpid().
void kill_tree(pid_t root, const std::string& mark);

}  // namespace tailor::trainer
