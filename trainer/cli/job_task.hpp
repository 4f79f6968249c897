#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "models/files/pretrained.hpp"
#include "trainer/data/dataset.hpp"
#include "trainer/run_config.hpp"
#include "trainer/sft/adapter_training.hpp"

namespace tailor::trainer::cli {

/// What a job's task brings to `tailor train` and `tailor plan`: its data, opened and checked, and
/// its loop.
class JobTask {
 public:
  virtual ~JobTask() = default;

  virtual std::int64_t total_steps() const = 0;
  virtual std::string step_text() const = 0;              // what one takes from the data: "4 rows"
  virtual std::vector<std::string> describe() const = 0;  // lines for people
  /// An example of what is learnt from, cut to about `max_characters`, with its heading.
  virtual std::string sample(std::size_t max_characters) const = 0;
  virtual std::string plan_json() const = 0;  // an object, for `tailor plan --json`
  virtual Dataset documents() const = 0;      // as long as forward sees them, for estimates
  /// Of the prompts and completions of a batch of rollouts, at most; SFT: none.
  virtual std::int64_t sampled_tokens() const { return 0; }
  /// How much may be kept of their forwards.
  virtual std::int64_t reused_bytes(at::Device /*device*/) const { return 0; }
  /// Checksums, to tell other data from these.
  virtual std::string train_fingerprint() const = 0;
  virtual std::string eval_fingerprint() const = 0;
  virtual TrainResult train(TrainRun run) = 0;
};

/// Reads and checks the data, and whatever else the task needs before a weight is read. `scores`:
/// this rank asks the rewards, whose children start here. Throws ConfigError. `config` and
/// `pretrained` outlive the answer.
std::unique_ptr<JobTask> open_task(const RunConfig& config, const models::Pretrained& pretrained,
                                   std::int64_t data_ranks = 1, bool scores = true);
std::unique_ptr<JobTask> open_sft_task(const RunConfig& config,
                                       const models::Pretrained& pretrained,
                                       std::int64_t data_ranks);
std::unique_ptr<JobTask> open_grpo_task(const RunConfig& config,
                                        const models::Pretrained& pretrained,
                                        std::int64_t data_ranks, bool scores);

/// The beginning and the end of a text, where it is longer than `max_characters`.
std::string shortened(const std::string& text, std::size_t max_characters);
std::string fixed(double value, int digits);

}  // namespace tailor::trainer::cli
