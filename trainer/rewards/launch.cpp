#include "trainer/rewards/launch.hpp"

#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cerrno>
#include <mutex>
#include <set>

#include "trainer/rewards/process_tree.hpp"

namespace tailor::trainer {
namespace {

int child_main(const Launch& launch) {
  ::setpgid(0, 0);
  if (launch.dies_with_parent) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != launch.parent) return ESRCH;  // it died before the line above
  }
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  if (const int fd = ::open("/proc/self/oom_score_adj", O_WRONLY); fd >= 0) {
    [[maybe_unused]] const auto written = ::write(fd, "1000", 4);
  }
  // The trainer watches over it, and is to get its turn however many processes this one becomes.
  [[maybe_unused]] const int nice_value = ::nice(5);
  if (launch.cwd != nullptr && ::chdir(launch.cwd) != 0) return errno;
  if (::dup2(launch.input, 0) < 0 || ::dup2(launch.output, 1) < 0 || ::dup2(launch.errors, 2) < 0)
    return errno;
  if (::syscall(SYS_close_range, 3U, ~0U, 0U) != 0)  // before Linux 5.9
    for (int fd = 3; fd < 65536; ++fd) ::close(fd);
  const rlimit no_core{0, 0}, memory{launch.memory_limit, launch.memory_limit};
  ::setrlimit(RLIMIT_CORE, &no_core);
  if (launch.memory_limit != RLIM_INFINITY && ::setrlimit(RLIMIT_AS, &memory) != 0) return errno;
  ::execve(launch.program, launch.arguments, launch.environment);
  return errno;
}

/// The processes that this one started itself and has not waited for. Starting and reaping hold the
/// mutex, so that no number changes its owner between a look and a wait.
struct OwnChildren {
  std::mutex mutex;
  std::set<pid_t> pids;
};
OwnChildren& own_children() {
  static OwnChildren all;
  return all;
}

}  // namespace

/// vfork, since fork copies the page tables of a process that holds a model, and what libraries do
/// at fork does not suit a process whose worker threads are gone. Not inlined, so that the frame
/// that both processes use is the child's own.
[[gnu::noinline]] pid_t launch_child(const Launch& launch, volatile int& error) {
  sigset_t all, before;
  sigfillset(&all);
  auto& own = own_children();
  const std::lock_guard lock(own.mutex);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);  // no handler may run in the child
  const auto pid = ::vfork();
  if (pid == 0) {
    error = child_main(launch);
    ::_exit(127);
  }
  const int problem = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid > 0) own.pids.insert(pid);
  errno = problem;
  return pid;
}

bool reap(pid_t child) {
  auto& own = own_children();
  const std::lock_guard lock(own.mutex);
  if (::waitpid(child, nullptr, WNOHANG) == 0) return false;
  own.pids.erase(child);
  return true;
}

void wait_for(pid_t child) {
  siginfo_t info{};
  while (::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT) < 0 &&
         errno == EINTR) {
  }
  reap(child);
}

void disown(pid_t child) {
  auto& own = own_children();
  const std::lock_guard lock(own.mutex);
  own.pids.erase(child);
}

void reap_orphans() {
  siginfo_t info{};
  // One call tells whether there is any, of whichever kind; mostly there is none.
  if (::waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) return;
  auto& own = own_children();
  const std::lock_guard lock(own.mutex);
  for (const auto& process : running_processes())
    if (process.zombie && process.parent == ::getpid() && process.group != ::getpgrp() &&
        !own.pids.contains(process.pid))
      ::waitpid(process.pid, nullptr, WNOHANG);
}

}  // namespace tailor::trainer
