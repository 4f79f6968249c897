#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "trainer/rewards/reward_config.hpp"

namespace tailor::trainer {

/// What a reward judges: one completion of one prompt.
struct Judged {
  std::string prompt_json;   // the row's prompt as JSON: a string, or a list of messages
  std::string completion;    // text, without the end token; with a stop string that ended it
  std::string columns_json;  // the row's other columns, a JSON object
  std::int64_t num_tokens = 0;
};

/// A sample that a reward could not score. It costs the sample, whatever the other rewards say of
/// it: without the failing term it might be worth more than its siblings, and a completion that
/// breaks a grader would be learnt. Where the row is at fault, all completions of its prompt lack
/// the term alike; then it is left out alone, as a null is. The job goes on.
struct RewardFault {
  std::size_t index;    // of the sample
  std::string reason;   // "timed out after 10 s", for people
  bool of_row = false;  // the data is at fault, and not the completion nor the reward
};

struct Scores {
  std::vector<std::optional<double>> values;  // one a sample, finite; absent: not scored
  std::vector<RewardFault> faults;            // why some are absent; a null of the function is none
};

/// The reward can never be asked again: its children have ended too often, or cannot be started.
/// what() says why.
class RewardLost : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// score() was given up.
class ScoringCancelled : public std::runtime_error {
 public:
  ScoringCancelled() : std::runtime_error("scoring was given up") {}
};

/// A verifiable reward. Answers are in the order of the samples, whatever runs beside what. One
/// thread at a time asks it; those that have children are used from threads that live as long.
class Reward {
 public:
  explicit Reward(RewardConfig config) : config_(std::move(config)) {}
  virtual ~Reward() = default;
  /// Throws RewardLost.
  virtual Scores score(std::span<const Judged> samples) = 0;
  /// From any thread: score() waits for nobody any more, now and later. It answers soon, or throws
  /// ScoringCancelled.
  void cancel() { cancelled_ = true; }
  const RewardConfig& config() const { return config_; }

 protected:
  const std::atomic<bool>& cancelled() const { return cancelled_; }

 private:
  RewardConfig config_;
  std::atomic<bool> cancelled_ = false;
};

/// Makes what a job names. External ones start their children here, so that a file that cannot be
/// imported, a command that is not there and a URL that is none are ConfigErrors, with the place in
/// the job file, before anything is sampled.
std::unique_ptr<Reward> make_reward(const RewardConfig& config);

}  // namespace tailor::trainer
