#pragma once

#include <condition_variable>
#include <deque>
#include <future>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "trainer/rewards/reward.hpp"

namespace tailor::trainer {

/// What the rewards said of some samples.
struct Scored {
  std::vector<Scores> functions;  // one a reward
  double busy_s = 0.0;            // how long they took
};

using SharedSamples = std::shared_ptr<const std::vector<Judged>>;

/// Asks the rewards on a thread of its own, batch after batch in the order of start(): while
/// children and servers think, the caller computes. The answers are those of asking at once.
class Scorer {
 public:
  /// `rewards` outlive it, and nobody else asks them. Ranks that do not score have none.
  explicit Scorer(std::span<const std::unique_ptr<Reward>> rewards);
  /// Gives up what is not scored, whatever it waits for: the rewards cannot be asked any more.
  ~Scorer();
  Scorer(const Scorer&) = delete;
  Scorer& operator=(const Scorer&) = delete;

  /// The answer is a NumericError where a reward is lost.
  std::future<Scored> start(SharedSamples samples);

 private:
  void run();

  std::span<const std::unique_ptr<Reward>> rewards_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::packaged_task<Scored()>> waiting_;
  bool ends_ = false;
  std::thread thread_;
};

}  // namespace tailor::trainer
