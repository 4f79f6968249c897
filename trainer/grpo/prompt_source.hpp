#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/data/source.hpp"

namespace tailor::trainer {

/// A row of GRPO data: what is completed, and what the rewards are told of it.
struct PromptRow {
  std::vector<std::int64_t> ids;
  std::string prompt_json;   // as the row has it: a string, or a list of messages
  std::string columns_json;  // the other columns, an object
  std::string place{};       // "prompts.jsonl:12", for people
};

/// Endless rows, epoch after epoch. The order of an epoch is a function of (seed, epoch) alone.
class PromptSource {
 public:
  /// num_rows at least 1.
  PromptSource(std::int64_t num_rows, bool shuffle, std::uint64_t seed);

  std::int64_t next();  // a row
  DataPosition position() const { return position_; }
  /// Goes on as the source did that stood there. Throws ConfigError for a place that the data does
  /// not have: it has changed.
  void seek(DataPosition position);
  /// Epochs completed and the share of the current one, but for the last `num_ahead` rows.
  double epochs(std::int64_t num_ahead = 0) const;

 private:
  void lay_out();

  std::int64_t num_rows_;
  bool shuffle_;
  std::uint64_t seed_;
  DataPosition position_;
  std::int64_t laid_out_epoch_ = -1;
  std::vector<std::int64_t> order_;
};

}  // namespace tailor::trainer
