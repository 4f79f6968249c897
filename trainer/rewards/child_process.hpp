#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tailor::trainer {

/// The file that a command's first word names: a path under `cwd` where it has a slash, else the
/// first executable of that name on PATH. Absent: there is none.
std::optional<std::filesystem::path> find_program(const std::string& word,
                                                  const std::filesystem::path& cwd);

struct ChildOptions {
  std::filesystem::path program;
  std::vector<std::string> arguments;  // the program's name first
  std::filesystem::path cwd;           // "": this process's
  std::int64_t memory_limit_mb = 0;    // RLIMIT_AS of each of its processes; 0: none
};

/// A small process that outlives this one and then kills the groups that it was told of, so that a
/// trainer that is killed leaves nothing of its children's behind. Without /bin/sh there is none.
class Guard {
 public:
  Guard();
  ~Guard();
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;

  void watch(pid_t group) const { tell('+', group); }
  void forget(pid_t group) const { tell('-', group); }

 private:
  void tell(char what, pid_t group) const;

  pid_t pid_ = -1;
  int input_ = -1;
};

/// A child process with pipes on its stdin, stdout and stderr, that can be killed with all that it
/// started. It leads a process group of its own, has no other file of this process open, dumps no
/// core, has a low priority, is what a machine out of memory kills first, and dies with the thread
/// that started it: use it from one that lives as long. It knows nothing of MPI's launcher, and
/// numeric libraries of it keep to one thread unless the environment says otherwise.
class Child {
 public:
  /// Throws std::system_error where the program cannot be run. `guard`, if any, is to outlive it.
  explicit Child(const ChildOptions& options, const Guard* guard = nullptr);
  ~Child();  // kills
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  int input() const { return input_; }    // its stdin, non-blocking, -1 when closed
  int output() const { return output_; }  // its stdout, non-blocking
  int errors() const { return errors_; }  // its stderr, non-blocking

  /// Writes what its stdin takes now: the bytes taken, absent where nobody reads any more.
  std::optional<std::size_t> write_some(std::string_view text);
  void close_input();

  bool has_ended();  // does not wait
  /// "exit code 3", "signal 11 (Segmentation fault)", once it has ended by itself.
  const std::string& how_it_ended() const { return end_; }
  /// Kills it and all that it started; see kill_tree(). One that does not end even so (in a system
  /// call that cannot be broken off, or held by a debugger) is left behind with a warning, and
  /// reap_orphans() of launch.hpp sees to it once it has ended.
  void kill();

 private:
  void close_pipes();

  const Guard* guard_;
  std::string mark_;
  pid_t pid_ = -1;
  int input_ = -1, output_ = -1, errors_ = -1;
  std::string end_;  // how it ended
};

}  // namespace tailor::trainer
