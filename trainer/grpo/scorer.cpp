#include "trainer/grpo/scorer.hpp"

#include <chrono>
#include <utility>

#include "trainer/sft/numeric_error.hpp"

namespace tailor::trainer {
namespace {

Scored ask(std::span<const std::unique_ptr<Reward>> rewards, const std::vector<Judged>& samples) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  Scored out;
  for (const auto& reward : rewards) {
    try {
      out.functions.push_back(reward->score(samples));
    } catch (const RewardLost& error) {
      throw NumericError(
          reward->config().place + ": the reward \"" + reward->config().name +
          "\" cannot be asked any more: " + error.what() +
          "; without it the model would learn something else, so the job ends here; started again "
          "it goes on from its last checkpoint");
    }
  }
  out.busy_s = std::chrono::duration<double>(Clock::now() - begin).count();
  return out;
}

}  // namespace

Scorer::Scorer(std::span<const std::unique_ptr<Reward>> rewards)
    : rewards_(rewards), thread_([this] { run(); }) {}

Scorer::~Scorer() {
  for (const auto& reward : rewards_) reward->cancel();
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

std::future<Scored> Scorer::start(SharedSamples samples) {
  std::packaged_task<Scored()> task(
      [this, samples = std::move(samples)] { return ask(rewards_, *samples); });
  auto scored = task.get_future();
  {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(task));
  }
  changed_.notify_one();
  return scored;
}

void Scorer::run() {
  while (true) {
    std::packaged_task<Scored()> task;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return ends_ || !waiting_.empty(); });
      if (ends_) return;
      task = std::move(waiting_.front());
      waiting_.pop_front();
    }
    task();
  }
}

}  // namespace tailor::trainer
