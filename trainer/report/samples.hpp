#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "trainer/report/jsonl_file.hpp"

namespace tailor::trainer {

struct SampleLimits {
  std::size_t max_samples = 2000;
  std::size_t max_text_bytes = std::size_t{16} << 10;  // of one prompt, completion or other text
  std::size_t max_bytes = std::size_t{8} << 20;        // of all samples as the page holds them
};

/// The latest samples of completions.jsonl, as the page wants them.
struct Samples {
  /// A JSON object each, in file order: step, group (the completions of one prompt in a step have
  /// one number), prompt (text, or a list of {role, content}), completion (text), reward, rewards
  /// {name: number or null}, advantage, finish_reason, num_tokens, and everything else in columns
  /// {name: text}. Absent ones are absent; NaN and infinities are "nan", "inf" and "-inf".
  std::vector<std::string> items_json;
  std::int64_t total = 0;  // lines that are samples
  std::int64_t num_left_out() const { return total - static_cast<std::int64_t>(items_json.size()); }
};

/// Reads a file of any size in bounded memory. A longer text is cut and says how much is missing.
/// Throws configs::ConfigError where the file cannot be read.
Samples read_samples(const std::filesystem::path& file, const SampleLimits& limits, Notes& notes);

}  // namespace tailor::trainer
