#pragma once

#include <cstdint>
#include <functional>
#include <map>
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

/// Problems of many rows, so that the user sees them at once: rows of a file that are wrong for the
/// same reason are one problem.
class RowProblems {
 public:
  void add(std::string problem);
  /// A row's. `text` may begin with its place, "file:line: ". `hint` is only asked where the
  /// problem is new to the file, and only told where most of the file's rows share it.
  void add(const std::string& file, std::int64_t line, std::string text,
           const std::function<std::string()>& hint = {});
  void set_num_rows(const std::string& file, std::int64_t rows) { num_rows_[file] = rows; }
  /// Where a job names the file: told behind the problems of its rows.
  void set_place(const std::string& file, const std::string& place) { named_at_[file] = place; }
  bool empty() const { return kinds_.empty(); }
  /// Throws ConfigError: the first 20, with the lines of each, and how many others there are.
  void check() const;

 private:
  struct Kind {
    std::string file, text, hint;     // file: "" for what is no row's
    std::vector<std::int64_t> lines;  // the first ones
    std::int64_t count = 0;
  };
  std::string told(const Kind& kind) const;

  std::vector<Kind> kinds_;                    // the first ones
  std::map<std::string, std::size_t> places_;  // of file and text in kinds_
  std::map<std::string, std::int64_t> num_rows_;
  std::map<std::string, std::string> named_at_;
  std::int64_t num_others_ = 0;
};

/// Reads a file line by line and hands every row to `visit`; blank lines are skipped. A wrong row,
/// a ConfigError of `visit` and a file that is no JSONL file are added to `problems`, with the
/// format that rows are in where they are in another than asked.
void visit_rows(const DataFile& file, RowProblems& problems,
                const std::function<void(Row&&)>& visit);

/// Reads a whole file. Throws ConfigError with its problems together.
std::vector<Row> read_rows(const DataFile& file);

}  // namespace tailor::trainer
