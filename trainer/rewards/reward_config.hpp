#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace tailor::trainer {

enum class RewardKind {
  NumericAnswer,
  ExactAnswer,
  Regex,
  JsonSchema,
  FormatTags,
  Length,
  Overlong,
  Repetition,
  Python,
  Command,
  Url
};

/// One entry of the job file's `rewards` list. A built-in one is named, the others say what scores:
/// {python: reward.py:function}, {command: [./score, --fast]}, {url: http://...}.
struct RewardConfig {
  RewardKind kind = RewardKind::NumericAnswer;
  std::string name;     // in metrics: rewards/<name>/mean; unique within a job
  double weight = 1.0;  // in the sum over rewards

  // Built in
  std::string column = "answer";  // numeric_answer, exact_answer: the row's column that is right
  double tolerance = 1e-6;        // numeric_answer: relative, or absolute below 1
  std::string pattern;            // regex: searched in the completion
  std::filesystem::path schema;   // json_schema: a file
  std::vector<std::string> tags;  // format_tags: <tag>...</tag>, in this order
  std::int64_t min_length = 0;    // length, tokens
  std::optional<std::int64_t>
      max_length;                 // length, overlong: tokens; absent: max_completion_length
  std::int64_t cache_length = 0;  // overlong: where the penalty begins, before max_length
  std::int64_t ngram_size = 3;    // repetition
  double max_penalty = -1.0;      // repetition

  // External
  std::filesystem::path file;  // python
  std::string function;        // python
  std::vector<std::string> command;
  std::string url;
  std::int64_t workers = 1;             // children at once
  double timeout_s = 10.0;              // wall clock, for one call
  std::int64_t memory_limit_mb = 2048;  // of a child
  std::int64_t max_restarts = 100;      // of children, in one run

  std::string place;  // "job.yaml:31:5: rewards[0]", for errors
};

}  // namespace tailor::trainer
