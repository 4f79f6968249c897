#include "trainer/rewards/process_tree.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <set>
#include <string_view>
#include <thread>

namespace tailor::trainer {
namespace {

struct DirectoryCloser {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

/// The first bytes of a file of /proc.
std::string read_start(const std::string& file, std::size_t size) {
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return "";
  std::string text(size, '\0');
  std::size_t done = 0;
  while (done < size) {
    const auto count = ::read(fd, text.data() + done, size - done);
    if (count <= 0) break;
    done += static_cast<std::size_t>(count);
  }
  ::close(fd);
  text.resize(done);
  return text;
}

bool has_mark(pid_t pid, const std::string& entry) {
  constexpr std::size_t kMaxEnvironment = 1 << 20;
  const auto text = read_start("/proc/" + std::to_string(pid) + "/environ", kMaxEnvironment);
  return text.find(entry) != std::string::npos;
}

}  // namespace

std::vector<ProcessEntry> running_processes() {
  std::vector<ProcessEntry> out;
  const std::unique_ptr<DIR, DirectoryCloser> directory(::opendir("/proc"));
  if (!directory) return out;
  while (const auto* entry = ::readdir(directory.get())) {
    if (entry->d_name[0] < '0' || entry->d_name[0] > '9') continue;
    const auto stat = read_start(std::string("/proc/") + entry->d_name + "/stat", 512);
    const auto name_end = stat.rfind(')');  // the name may hold anything
    if (name_end == std::string::npos) continue;
    char state = 0;
    int parent = 0, group = 0, session = 0;
    if (std::sscanf(stat.c_str() + name_end + 1, " %c %d %d %d", &state, &parent, &group,
                    &session) == 4)
      out.push_back({.pid = std::atoi(entry->d_name),
                     .parent = parent,
                     .group = group,
                     .session = session,
                     .zombie = state == 'Z' || state == 'X'});
  }
  return out;
}

std::vector<pid_t> processes_under(pid_t root, const std::vector<ProcessEntry>& all) {
  std::set<pid_t> known;
  for (const auto& process : all)
    if (process.pid == root || process.group == root || process.session == root)
      known.insert(process.pid);
  // Numbers of processes wrap around, so that a parent need not stand before its child.
  for (bool grew = true; grew;) {
    grew = false;
    for (const auto& process : all)
      if (known.contains(process.parent)) grew |= known.insert(process.pid).second;
  }
  std::vector<pid_t> out;
  for (const auto& process : all)
    if (!process.zombie && known.contains(process.pid)) out.push_back(process.pid);
  return out;
}

void kill_tree(pid_t root, const std::string& mark) {
  using Clock = std::chrono::steady_clock;
  const auto entry = std::string(kMarkVariable) + '=' + mark;
  const auto end = Clock::now() + std::chrono::seconds(30);
  // What descends from root is to be seen before root is gone, and nobody forks meanwhile: one call
  // reaches the whole group, the processes that are just being forked included.
  ::kill(-root, SIGSTOP);
  auto victims = processes_under(root, running_processes());
  std::set<pid_t> killed;
  while (true) {
    ::kill(-root, SIGKILL);
    // Those outside the group stop first, lest they fork while their siblings are killed.
    for (const auto pid : victims) ::kill(pid, SIGSTOP);
    for (const auto pid : victims) ::kill(pid, SIGKILL);
    killed.insert(victims.begin(), victims.end());
    const auto all = running_processes();
    victims = processes_under(root, all);
    for (const auto& process : all)
      if (!process.zombie && process.pid != ::getpid() && has_mark(process.pid, entry) &&
          std::ranges::find(victims, process.pid) == victims.end())
        victims.push_back(process.pid);
    if (victims.empty() || Clock::now() > end) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  killed.erase(root);
  for (const auto pid : killed) ::waitpid(pid, nullptr, WNOHANG);  // of those that fell to us
}

}  // namespace tailor::trainer
