#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "trainer/report/metrics_table.hpp"

namespace tailor::trainer {

/// What config.yaml says of a run, read loosely: the file may be of another version of the program.
struct JobFacts {
  std::string text;  // the whole file, valid UTF-8, cut after 256 KiB
  std::string task, model, dtype, target_modules;
  std::optional<std::int64_t> r, max_steps;
  std::optional<double> lora_alpha, learning_rate;
};
/// None, with a note, where there is no such file.
std::optional<JobFacts> read_job_facts(const std::filesystem::path& file, Notes& notes);

/// What lies in adapter/.
struct AdapterFacts {
  std::string kind;  // as `tailor inspect` calls it
  std::int64_t num_tensors = 0, num_parameters = 0, num_bytes = 0;
};
/// None where there is no adapter yet; with a note where it cannot be read.
std::optional<AdapterFacts> read_adapter_facts(const std::filesystem::path& folder, Notes& notes);

/// A folder in checkpoints/, by name and size alone.
struct CheckpointFacts {
  std::string name;
  std::int64_t num_bytes = 0;
};
std::vector<CheckpointFacts> list_checkpoints(const std::filesystem::path& folder);

/// What a run's metrics come to. Absent where nothing was logged under the names.
struct Totals {
  std::optional<std::int64_t> steps, num_tokens, peak_rss_bytes;
  std::optional<double> first_loss, last_loss;  // the first and the last that are finite
  /// Rewards are noisy: means of the first and of the last tenth, of 10 steps at most.
  std::optional<double> first_reward, last_reward;
  std::optional<double> last_eval_loss, best_eval_loss;
  std::optional<std::int64_t> best_eval_step;
  std::optional<double> elapsed_s;          // needs elapsed_s in the table
  std::optional<double> tokens_per_second;  // over all steps, evaluation not counted
};
Totals totals(const MetricsTable& table);

}  // namespace tailor::trainer
