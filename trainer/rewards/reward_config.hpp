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
  std::string column = "answer";   // numeric_answer, exact_answer: the row's column that is right
  double tolerance = 1e-6;         // numeric_answer: relative, or absolute below 1
  bool ignore_case = true;         // exact_answer
  bool ignore_punctuation = true;  // exact_answer: at both ends
  std::string pattern;             // regex: searched in the completion, PCRE2's syntax
  std::filesystem::path schema;    // json_schema: a file
  std::vector<std::string> tags;   // format_tags: <tag>...</tag>, in this order
  bool strict = true;              // format_tags: nothing but white space outside the tags
  std::int64_t min_length = 0;     // length, tokens
  std::optional<std::int64_t> max_length;  // length, overlong: tokens; see needs_max_length()
  std::int64_t cache_length = 0;  // overlong: tokens before max_length where the penalty begins;
                                  // 0: a fifth of max_length, DAPO's ratio (arXiv 2503.14476)
  std::int64_t ngram_size = 3;    // repetition, words
  double max_penalty = -1.0;      // repetition: of a text that only repeats itself

  // External
  std::filesystem::path file;                 // python
  std::string function;                       // python
  std::string python_executable = "python3";  // python: a name on PATH, or a path
  std::vector<std::string> command;  // its first word is a name on PATH, or a path under `cwd`
  std::string url;
  std::filesystem::path cwd;            // python, command: where children run; the job's folder
  std::int64_t workers = 1;             // children, or requests, at once
  double timeout_s = 10.0;              // wall clock, for one call
  double start_timeout_s = 60.0;        // python: for imports
  std::int64_t memory_limit_mb = 4096;  // address space of a child's process; 0: no limit
  std::int64_t max_restarts = 100;      // of children, in one run

  std::string place;  // "job.yaml:31:5: rewards[0]", for errors
};

/// overlong needs a max_length: where the job file has none, the job's max_completion_length is to
/// be filled in before make_reward().
inline bool needs_max_length(const RewardConfig& config) {
  return config.kind == RewardKind::Overlong && !config.max_length;
}

}  // namespace tailor::trainer
