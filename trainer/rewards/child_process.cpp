#include "trainer/rewards/child_process.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "trainer/metrics/log.hpp"
#include "trainer/rewards/launch.hpp"
#include "trainer/rewards/process_tree.hpp"

namespace tailor::trainer {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

/// Both ends above the three standard files, whichever of those this process has closed.
struct Pipe {
  int read = -1, write = -1;

  Pipe() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) fail("cannot make a pipe");
    read = raised(ends[0]);
    write = raised(ends[1]);
  }
  ~Pipe() {
    if (read >= 0) ::close(read);
    if (write >= 0) ::close(write);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;

  static int release(int& end) { return std::exchange(end, -1); }

 private:
  static int raised(int fd) {
    if (fd > 2) return fd;
    const int higher = ::fcntl(fd, F_DUPFD_CLOEXEC, 3);
    ::close(fd);
    if (higher < 0) fail("cannot make a pipe");
    return higher;
  }
};

/// The environment of a child.
std::vector<std::string> environment_with(const std::string& mark) {
  std::vector<std::string> out;
  bool has_threads = false;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    // A child is no rank: with these an import of mpi4py would join the job.
    bool launcher = false;
    for (const auto* prefix : {"OMPI_", "PMIX_", "PMI_", "PRTE_"})
      launcher |= text.starts_with(prefix);
    if (launcher || text.starts_with(std::string(kMarkVariable) + '=')) continue;
    has_threads |= text.starts_with("OMP_NUM_THREADS=");
    out.emplace_back(text);
  }
  out.push_back(std::string(kMarkVariable) + '=' + mark);
  // The machine computes already, and a pool of threads a core can exceed the memory limit.
  if (!has_threads) out.emplace_back("OMP_NUM_THREADS=1");
  out.emplace_back("PYTHONUNBUFFERED=1");  // or answers would wait in a buffer
  return out;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> out;
  for (auto& text : texts) out.push_back(text.data());
  out.push_back(nullptr);
  return out;
}

std::string fresh_mark() {
  static std::atomic<int> count = 0;
  return std::to_string(::getpid()) + '.' + std::to_string(++count) + '.' +
         std::to_string(::time(nullptr)) + '.';
}

/// The bytes that a pipe takes now; absent where nobody reads any more.
std::optional<std::size_t> write_without_signal(int fd, std::string_view text) {
  // A pipe without a reader raises SIGPIPE in this thread: it is held back and taken out again.
  sigset_t pipe, before, pending;
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  ::sigpending(&pending);
  ::pthread_sigmask(SIG_BLOCK, &pipe, &before);
  const auto count = ::write(fd, text.data(), text.size());
  const int error = errno;
  if (count < 0 && error == EPIPE && sigismember(&pending, SIGPIPE) == 0) {
    const timespec now{0, 0};
    while (::sigtimedwait(&pipe, nullptr, &now) < 0 && errno == EINTR) {
    }
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (count >= 0) return static_cast<std::size_t>(count);
  if (error == EAGAIN || error == EINTR) return 0;
  return {};
}

void make_non_blocking(int fd) { ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK); }

}  // namespace

std::optional<fs::path> find_program(const std::string& word, const fs::path& cwd) {
  const auto runs = [](const fs::path& file) {
    std::error_code error;
    return fs::is_regular_file(file, error) && ::access(file.c_str(), X_OK) == 0;
  };
  if (word.find('/') != std::string::npos) {
    const auto file = fs::absolute(cwd / word);
    return runs(file) ? std::optional(file) : std::nullopt;
  }
  const auto* variable = std::getenv("PATH");
  std::string_view path = variable == nullptr ? "/usr/local/bin:/usr/bin:/bin" : variable;
  while (!path.empty() && !word.empty()) {
    const auto end = std::min(path.find(':'), path.size());
    const auto file = fs::absolute(cwd / fs::path(path.substr(0, end)) / word);
    if (runs(file)) return file;
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  return {};
}

Guard::Guard() {
  // Lines "+ GROUP" and "- GROUP"; at the end of its input, this process's end, it kills what is
  // left.
  constexpr auto kScript = R"(g=
while read -r what p; do
  case $what in
    +) g="$g $p" ;;
    -) n=; for q in $g; do [ "$q" = "$p" ] || n="$n $q"; done; g=$n ;;
  esac
done
for p in $g; do kill -s KILL -- "-$p"; done)";
  Pipe in;
  const int nothing = ::open("/dev/null", O_RDWR | O_CLOEXEC);  // nobody waits for its output
  if (nothing < 0) fail("cannot open /dev/null");
  std::vector<std::string> arguments{"sh", "-c", kScript};
  std::vector<std::string> variables{"PATH=/usr/bin:/bin"};
  const auto argument_pointers = pointers(arguments), variable_pointers = pointers(variables);
  volatile int error = 0;
  pid_ = launch_child({.program = "/bin/sh",
                       .arguments = argument_pointers.data(),
                       .environment = variable_pointers.data(),
                       .cwd = "/",
                       .input = in.read,
                       .output = nothing,
                       .errors = nothing,
                       .dies_with_parent = false},
                      error);
  ::close(nothing);
  if (pid_ < 0) fail("cannot start a process");
  input_ = Pipe::release(in.write);
  make_non_blocking(input_);
}

Guard::~Guard() {
  ::close(input_);
  wait_for(pid_);
}

void Guard::tell(char what, pid_t group) const {
  write_without_signal(input_, what + (' ' + std::to_string(group)) + '\n');
}

Child::Child(const ChildOptions& options, const Guard* guard) : guard_(guard), mark_(fresh_mark()) {
  // What a killed child leaves behind becomes a child of this process, which can wait for it.
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  Pipe in, out, err;
  auto arguments = options.arguments;
  auto variables = environment_with(mark_);
  const auto argument_pointers = pointers(arguments);
  const auto variable_pointers = pointers(variables);
  const auto limit = static_cast<rlim_t>(options.memory_limit_mb) << 20;
  const Launch launch{.program = options.program.c_str(),
                      .arguments = argument_pointers.data(),
                      .environment = variable_pointers.data(),
                      .cwd = options.cwd.empty() ? nullptr : options.cwd.c_str(),
                      .input = in.read,
                      .output = out.write,
                      .errors = err.write,
                      .memory_limit = options.memory_limit_mb > 0 ? limit : RLIM_INFINITY};
  volatile int error = 0;
  pid_ = launch_child(launch, error);
  if (pid_ < 0) fail("cannot start a process");
  if (error != 0) {
    wait_for(pid_);
    errno = error;
    fail("cannot run " + options.program.string());
  }
  if (guard_ != nullptr) guard_->watch(pid_);
  input_ = Pipe::release(in.write);
  output_ = Pipe::release(out.read);
  errors_ = Pipe::release(err.read);
  for (const int fd : {input_, output_, errors_}) make_non_blocking(fd);
}

Child::~Child() { kill(); }

std::optional<std::size_t> Child::write_some(std::string_view text) {
  if (input_ < 0) return {};
  return write_without_signal(input_, text);
}

void Child::close_input() {
  if (input_ >= 0) ::close(std::exchange(input_, -1));
}

void Child::close_pipes() {
  close_input();
  if (output_ >= 0) ::close(std::exchange(output_, -1));
  if (errors_ >= 0) ::close(std::exchange(errors_, -1));
}

bool Child::has_ended() {
  if (!end_.empty() || pid_ < 0) return true;
  siginfo_t info{};
  // It stays a zombie until kill(), so that its number is nobody else's.
  if (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
      info.si_pid == 0)
    return false;
  end_ = info.si_code == CLD_EXITED ? "exit code " + std::to_string(info.si_status)
                                    : "signal " + std::to_string(info.si_status) + " (" +
                                          ::strsignal(info.si_status) + ')';
  return true;
}

void Child::kill() {
  if (pid_ < 0) return;
  close_pipes();
  kill_tree(pid_, mark_);
  if (guard_ != nullptr) guard_->forget(pid_);
  // A process is seen to have ended a moment before it can be waited for.
  constexpr std::chrono::seconds kPatience(2);
  const auto end = std::chrono::steady_clock::now() + kPatience;
  bool reaped = reap(pid_);
  while (!reaped && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    reaped = reap(pid_);
  }
  reap_orphans();  // what it left, see the constructor
  if (!reaped) {
    disown(pid_);
    log_warn("a reward's child, process " + std::to_string(pid_) +
             ", does not end although it was killed, and is left behind");
  }
  pid_ = -1;
}

}  // namespace tailor::trainer
