#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "trainer/rewards/child_process.hpp"

namespace tailor::trainer {

/// The children cannot do anything: what a user must set right.
class StartError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// One line that goes to a child, for some samples.
struct Call {
  std::string request;  // with its newline
  std::vector<std::size_t> samples;
};

/// What came of a call: the child's line without its newline, or why there is none.
struct Outcome {
  std::optional<std::string> line;
  std::string fault;
  bool timed_out = false;
};

struct PoolOptions {
  ChildOptions child;
  std::int64_t workers = 1;
  double timeout_s = 10.0;  // for one call
  /// Set: a child first writes a line; it is waited for so long, and `greeting_problem` says what
  /// is wrong with it, or "".
  std::optional<double> start_timeout_s;
  std::function<std::string(const std::string& line)> greeting_problem;
  std::int64_t max_restarts = 100;
  double start_patience_s = 60.0;  // how long starts may fail one after the other
};

/// Children that answer a line with a line. A child that is late, ends, writes more than 16 MiB in
/// one call or starts more than 64 processes is killed with all that it started and replaced, at
/// most `max_restarts` times; what it was asked is answered by that fault, and the other calls go
/// on. A child may end between calls, and then costs a restart alone. A start that fails, as where
/// the machine has no process left to give, is tried again after a wait that doubles up to 5 s; it
/// counts as a restart once there is a child. What a child writes to stderr is dropped but for its
/// last line, which faults quote. What children started and left is waited for once it has ended.
/// One thread at a time uses it, and those that make it or run it live as long as what they ask
/// for; see Child.
class WorkerPool {
 public:
  /// Starts the children. Throws StartError where the program cannot be run, where it ends at once
  /// or where its greeting is a problem.
  explicit WorkerPool(PoolOptions options);
  ~WorkerPool();

  /// Runs the calls, in order as children become free; `settle` gets each outcome and may answer
  /// with more calls, which go first. Throws ScoringCancelled soon after `cancelled` is set, and
  /// RewardLost where there is a call and never again a child: after max_restarts, or where starts
  /// have failed for start_patience_s, three at least. The children that worked are killed.
  void run(std::vector<Call> calls,
           const std::function<std::vector<Call>(const Call&, const Outcome&)>& settle,
           const std::atomic<bool>& cancelled);

 private:
  struct Worker;
  using Clock = std::chrono::steady_clock;
  using Settle = std::function<std::vector<Call>(const Call&, const Outcome&)>;

  void start(Worker& worker);
  void count_failed_start(const std::string& problem);
  std::string loss() const;
  bool is_usable(Worker& worker);
  void give(Worker& worker, Call call);
  void finish(Worker& worker, Outcome outcome);
  void give_out_calls();
  void give_up();
  void wait_for_events();
  void read_output(Worker& worker);
  void write_request(Worker& worker);
  void take_line(Worker& worker, std::string line);
  void check_limits(Worker& worker);
  void count_processes();
  void fail(Worker& worker, const std::string& fault, bool timed_out = false);
  void greet(Worker& worker, const std::string& problem);
  bool is_working() const;

  PoolOptions options_;
  Guard guard_;  // outlives the children
  std::vector<std::unique_ptr<Worker>> workers_;
  std::deque<Call> queue_;
  const Settle* settle_ = nullptr;  // while run() runs
  std::int64_t restarts_ = 0;
  std::string last_end_;                           // of a child, and why
  int failed_starts_ = 0;                          // in a row,
  Clock::time_point failing_since_, next_start_;   // since when, and not before when again
  std::string last_start_;                         // why the last one failed
  std::string lost_;                               // why nobody can be asked any more, or ""
  Clock::time_point next_reaping_ = Clock::now();  // see reap_orphans()
  int counted_;  // threads of the machine when the children's processes were last counted
};

}  // namespace tailor::trainer
