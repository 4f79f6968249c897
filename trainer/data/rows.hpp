#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "models/text/chat.hpp"
#include "trainer/data/example.hpp"
#include "trainer/run_config.hpp"

namespace tailor::trainer {

/// A row of a data file before tokenisation, whichever its format.
struct Row {
  std::vector<models::text::Message> messages;  // messages
  std::string prompt, completion;               // prompt_completion
  std::string text;                             // text
  Example tokens;                               // tokens
  std::int64_t line = 0;                        // in the file, from 1
};

/// "messages", "prompt_completion", "text" or "tokens", as in the job file.
const char* format_name(DataFormat format);

/// Parses one line of a JSONL file:
///   messages           {"messages": [{"role": "user", "content": "..."}, ...]}
///   prompt_completion  {"prompt": "...", "completion": "..."}
///   text               {"text": "..."}
///   tokens             {"input_ids": [...], "labels": [...]}  as long; a label is -100 or the id
/// Other columns are ignored, except those that would change the prompt (tools, tool calls). Throws
/// configs::ConfigError "file:line: what was expected, what was found". Rows of another format than
/// asked are named as such.
Row parse_row(std::string_view json, DataFormat format, const std::string& file, std::int64_t line);

/// Problems of many rows, so that the user sees them at once.
class RowProblems {
 public:
  void add(std::string problem);
  bool empty() const { return count_ == 0; }
  void check()
      const;  // throws ConfigError: the first 20, one a line, and how many others there are

 private:
  std::vector<std::string> first_;
  std::int64_t count_ = 0;
};

/// Reads a file line by line and hands every row to `visit`; blank lines are skipped. A wrong row,
/// a ConfigError of `visit` and a file that is no JSONL file are added to `problems`.
void visit_rows(const DataFile& file, RowProblems& problems,
                const std::function<void(Row&&)>& visit);

/// Reads a whole file. Throws ConfigError with its problems together.
std::vector<Row> read_rows(const DataFile& file);

}  // namespace tailor::trainer
