#include "trainer/rewards/worker_pool.hpp"

#include <poll.h>
#include <signal.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <system_error>
#include <utility>

#include "trainer/rewards/exchange.hpp"
#include "trainer/rewards/launch.hpp"
#include "trainer/rewards/process_tree.hpp"
#include "trainer/rewards/reward.hpp"

namespace tailor::trainer {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr std::size_t kMaxBytesPerCall = 16 << 20;
constexpr std::size_t kMaxProcesses = 64;
constexpr int kMinFailedStarts = 3;
constexpr milliseconds kFirstStartWait{100}, kLongestStartWait{5000};
constexpr std::chrono::seconds kReapingInterval{1};
constexpr std::size_t kErrorTail = 4096;
constexpr int kBurst = 32;  // processes more on the machine: time to count those of the children
constexpr milliseconds kTick{10};
constexpr unsigned kSecondLineUs = 20'000;

/// Threads of the whole machine.
int num_threads_of_machine() {
  struct sysinfo info {};
  return ::sysinfo(&info) == 0 ? info.procs : 0;
}

Clock::duration seconds(double value) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(value));
}

std::string shortened(double value) {
  auto text = std::to_string(value);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.ends_with('.')) text.pop_back();
  return text;
}

}  // namespace

struct WorkerPool::Worker {
  std::unique_ptr<Child> child;
  bool greeted = false;       // ready for calls
  bool answered = false;      // a call before
  std::optional<Call> call;   // in work
  std::string request;        // what of it is to be written
  std::string output;         // read, without a newline so far
  std::string errors;         // the last bytes of stderr
  std::size_t num_bytes = 0;  // written by the child in this call
  Clock::time_point deadline;

  bool is_waiting() const { return child && (call || !greeted); }

  /// The last line that says something, for messages; "" or ": line".
  std::string last_words() const {
    constexpr std::size_t kMaxWords = 300;
    const auto end = errors.find_last_not_of(" \t\r\n");
    if (end == std::string::npos) return "";
    const auto before = errors.rfind('\n', end);
    const auto begin = before == std::string::npos ? 0 : before + 1;
    return ": " + errors.substr(begin, std::min(end + 1 - begin, kMaxWords));
  }
};

WorkerPool::WorkerPool(PoolOptions options)
    : options_(std::move(options)), counted_(num_threads_of_machine()) {
  for (std::int64_t i = 0; i < options_.workers; ++i) {
    workers_.push_back(std::make_unique<Worker>());
    start(*workers_.back());
    if (failed_starts_ > 0) throw StartError(last_start_);
  }
  if (options_.start_timeout_s) {
    while (is_working() && failed_starts_ == 0) wait_for_events();
  } else {
    // A command that cannot work mostly ends at once.
    const auto end = Clock::now() + milliseconds(200);
    while (Clock::now() < end && !workers_[0]->child->has_ended()) ::usleep(5000);
    if (workers_[0]->child->has_ended()) {
      read_output(*workers_[0]);
      throw StartError("it ended at once with " + workers_[0]->child->how_it_ended() +
                       workers_[0]->last_words());
    }
  }
  if (failed_starts_ > 0) throw StartError(last_start_);
}

WorkerPool::~WorkerPool() {
  // The end of their input lets children that read it end by themselves.
  for (const auto& worker : workers_)
    if (worker->child) worker->child->close_input();
  const auto end = Clock::now() + milliseconds(200);
  for (const auto& worker : workers_)
    while (worker->child && !worker->child->has_ended() && Clock::now() < end) ::usleep(2000);
}

bool WorkerPool::is_working() const {
  return std::ranges::any_of(workers_, [](const auto& worker) { return worker->is_waiting(); });
}

void WorkerPool::start(Worker& worker) {
  worker = Worker();
  try {
    worker.child = std::make_unique<Child>(options_.child, &guard_);
  } catch (const std::system_error& error) {
    return count_failed_start(error.what());
  }
  worker.greeted = !options_.start_timeout_s;
  if (worker.greeted) failed_starts_ = 0;
  worker.deadline = Clock::now() + seconds(options_.start_timeout_s.value_or(0));
}

void WorkerPool::count_failed_start(const std::string& problem) {
  constexpr int kMaxDoublings = 10;
  const auto now = Clock::now();
  if (failed_starts_ == 0) failing_since_ = now;
  next_start_ = now + std::min(kFirstStartWait * (1 << std::min(failed_starts_, kMaxDoublings)),
                               kLongestStartWait);
  ++failed_starts_;
  last_start_ = problem;
}

/// Why there will be no child any more; "" where starts may still succeed.
std::string WorkerPool::loss() const {
  if (restarts_ >= options_.max_restarts)
    return "its children were replaced max_restarts (" + std::to_string(options_.max_restarts) +
           ") times; of the last one: " + last_end_;
  const bool patient = failed_starts_ < kMinFailedStarts ||
                       Clock::now() < failing_since_ + seconds(options_.start_patience_s);
  return patient ? "" : "its children cannot be started: " + last_start_;
}

/// Whether a call can be given to a child, which is made where there is none.
bool WorkerPool::is_usable(Worker& worker) {
  if (worker.call) return false;
  // A line that nobody asked for would be taken for the next answer.
  if (worker.child && worker.greeted) {
    worker.num_bytes = 0;
    read_output(worker);
    const bool ended = worker.child->has_ended();
    if (ended || !worker.output.empty()) {
      last_end_ =
          ended ? "ended with " + worker.child->how_it_ended() : "wrote more than its answers";
      worker.child.reset();
    }
  }
  if (!worker.child && restarts_ < options_.max_restarts && Clock::now() >= next_start_) {
    start(worker);
    restarts_ += worker.child != nullptr;
  }
  return worker.child != nullptr && worker.greeted;
}

void WorkerPool::give(Worker& worker, Call call) {
  worker.request = call.request;
  worker.call = std::move(call);
  worker.num_bytes = 0;
  worker.errors.clear();
  worker.deadline = Clock::now() + seconds(options_.timeout_s);
  write_request(worker);
}

void WorkerPool::finish(Worker& worker, Outcome outcome) {
  const auto call = std::exchange(worker.call, {});
  worker.request.clear();
  auto more = (*settle_)(*call, outcome);
  queue_.insert(queue_.begin(), std::make_move_iterator(more.begin()),
                std::make_move_iterator(more.end()));
}

/// Kills the child; its call, where it has one, ends with the fault.
void WorkerPool::fail(Worker& worker, const std::string& fault, bool timed_out) {
  worker.child.reset();
  last_end_ = fault;
  if (worker.call)
    finish(worker, {.line = {}, .fault = fault, .timed_out = timed_out});
  else if (!worker.greeted)
    greet(worker, fault);
}

/// A start has succeeded, or not.
void WorkerPool::greet(Worker& worker, const std::string& problem) {
  worker.greeted = problem.empty();
  if (problem.empty()) {
    failed_starts_ = 0;
    return;
  }
  worker.child.reset();
  last_end_ = problem;
  count_failed_start(problem);
}

void WorkerPool::take_line(Worker& worker, std::string line) {
  if (!worker.greeted) return greet(worker, options_.greeting_problem(line));
  if (!worker.answered && !options_.start_timeout_s) {
    // A program that says more than it is asked mostly does so from the start.
    ::usleep(kSecondLineUs);
    worker.answered = true;
    auto call = std::exchange(worker.call, {});
    read_output(worker);
    worker.call = std::move(call);
    if (!worker.output.empty())
      return fail(worker, "answered more than one line: " + excerpt(line) + " and " +
                              excerpt(worker.output));
  }
  worker.answered = true;
  if (worker.call) finish(worker, {.line = std::move(line), .fault = ""});
}

void WorkerPool::read_output(Worker& worker) {
  const auto read_from = [&](int fd, std::string& into, bool one_line) {
    char buffer[65536];
    bool done = false;
    while (!done && worker.num_bytes <= kMaxBytesPerCall) {
      const auto count = ::read(fd, buffer, sizeof(buffer));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return;
      worker.num_bytes += static_cast<std::size_t>(count);
      const std::string_view text(buffer, static_cast<std::size_t>(count));
      into.append(text);
      done = one_line && text.find('\n') != std::string_view::npos;
    }
  };
  read_from(worker.child->errors(), worker.errors, /*one_line=*/false);
  if (worker.errors.size() > kErrorTail) worker.errors.erase(0, worker.errors.size() - kErrorTail);
  read_from(worker.child->output(), worker.output, /*one_line=*/true);
  if (!worker.is_waiting()) return;
  if (worker.num_bytes > kMaxBytesPerCall)
    return fail(worker, "wrote more than " + std::to_string(kMaxBytesPerCall >> 20) + " MiB");
  const auto end = worker.output.find('\n');
  if (end == std::string::npos) return;
  auto line = worker.output.substr(0, end);
  worker.output.erase(0, end + 1);
  take_line(worker, std::move(line));
}

void WorkerPool::write_request(Worker& worker) {
  const auto count = worker.child->write_some(worker.request);
  if (!count)
    worker.request.clear();  // it has ended, or will time out
  else
    worker.request.erase(0, *count);
}

void WorkerPool::check_limits(Worker& worker) {
  if (!worker.is_waiting()) return;
  if (worker.child->has_ended()) {
    read_output(worker);  // what it wrote last
    if (!worker.is_waiting()) return;
    // It was about to end after its last answer, and has not looked at this call.
    if (worker.call && worker.answered && worker.num_bytes == 0 &&
        worker.child->how_it_ended() == "exit code 0") {
      queue_.push_front(*std::exchange(worker.call, {}));
      last_end_ = "ended with " + worker.child->how_it_ended();
      worker.child.reset();
      return;
    }
    return fail(worker, "ended with " + worker.child->how_it_ended() + worker.last_words());
  }
  if (Clock::now() < worker.deadline) return;
  const auto limit = worker.greeted ? options_.timeout_s : *options_.start_timeout_s;
  fail(worker,
       (worker.greeted ? "timed out after " : "did not start within ") + shortened(limit) + " s" +
           worker.last_words(),
       /*timed_out=*/true);
}

/// Kills children that start too many processes. One number tells when it is time to look, in
/// microseconds, before a fork bomb leaves no time for more; it also counts what others start.
void WorkerPool::count_processes() {
  const int threads = num_threads_of_machine();
  counted_ = std::min(counted_, threads);
  if (threads <= counted_ + kBurst) return;
  const auto signal_all = [&](int signal) {
    for (const auto& worker : workers_)
      if (worker->is_waiting()) ::kill(-worker->child->pid(), signal);
  };
  signal_all(SIGSTOP);
  const auto all = running_processes();
  for (const auto& worker : workers_)
    if (worker->is_waiting() && processes_under(worker->child->pid(), all).size() > kMaxProcesses)
      fail(*worker, "started more than " + std::to_string(kMaxProcesses) + " processes");
  signal_all(SIGCONT);
  counted_ = num_threads_of_machine();
}

void WorkerPool::wait_for_events() {
  auto until = Clock::now() + kTick;  // the end of a child whose pipes another holds open
  std::vector<pollfd> files;
  for (const auto& worker : workers_) {
    if (!worker->is_waiting()) continue;
    until = std::min(until, worker->deadline);
    files.push_back({.fd = worker->child->output(), .events = POLLIN, .revents = 0});
    files.push_back({.fd = worker->child->errors(), .events = POLLIN, .revents = 0});
    const int input = worker->request.empty() ? -1 : worker->child->input();
    files.push_back({.fd = input, .events = POLLOUT, .revents = 0});
  }
  const auto wait = std::chrono::ceil<milliseconds>(until - Clock::now()).count();
  // A pipe whose other end is closed is ready without end: then the child is about to end.
  bool closed = false;
  ::poll(files.data(), files.size(), static_cast<int>(std::max<std::int64_t>(wait, 0)));
  for (const auto& file : files) closed |= (file.revents & (POLLHUP | POLLERR)) != 0;
  if (closed) ::usleep(1000);
  count_processes();
  if (Clock::now() >= next_reaping_) {
    reap_orphans();
    next_reaping_ = Clock::now() + kReapingInterval;
  }
  for (const auto& worker : workers_) {
    if (worker->is_waiting() && !worker->request.empty()) write_request(*worker);
    if (worker->is_waiting()) read_output(*worker);
    check_limits(*worker);
  }
}

void WorkerPool::give_out_calls() {
  bool any = false;  // child
  for (const auto& worker : workers_) {
    if (!queue_.empty() && is_usable(*worker)) {
      auto call = std::move(queue_.front());
      queue_.pop_front();
      give(*worker, std::move(call));
    }
    any |= worker->child != nullptr;
  }
  if (any || queue_.empty()) return;
  lost_ = loss();
  if (lost_.empty()) return;
  give_up();
  throw RewardLost(lost_);
}

/// Forgets all calls, and the children that have one.
void WorkerPool::give_up() {
  queue_.clear();
  settle_ = nullptr;
  for (const auto& worker : workers_)
    if (worker->call) *worker = Worker();
}

void WorkerPool::run(std::vector<Call> calls, const Settle& settle,
                     const std::atomic<bool>& cancelled) {
  if (!lost_.empty()) throw RewardLost(lost_);
  failed_starts_ = 0;
  settle_ = &settle;
  queue_.assign(std::make_move_iterator(calls.begin()), std::make_move_iterator(calls.end()));
  while (true) {
    if (cancelled) {
      give_up();
      throw ScoringCancelled();
    }
    give_out_calls();
    if (queue_.empty() &&
        !std::ranges::any_of(workers_, [](const auto& worker) { return worker->call.has_value(); }))
      break;
    wait_for_events();
  }
  settle_ = nullptr;
  reap_orphans();
}

}  // namespace tailor::trainer
