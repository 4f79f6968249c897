#pragma once

#include <memory>
#include <string>
#include <vector>

#include "models/text/chat.hpp"
#include "models/text/tokenizer.hpp"
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

/// Parses one line of a JSONL file. Throws configs::ConfigError "file:line: what was expected, what
/// was found". Rows of another format than asked are named as such.
Row parse_row(std::string_view json, DataFormat format, const std::string& file, std::int64_t line);

/// Reads a whole file. All bad rows are reported together, at most the first 20 of them.
std::vector<Row> read_rows(const DataFile& file);

struct Tokenization {
  std::shared_ptr<const models::text::Tokenizer> tokenizer;
  std::shared_ptr<const models::text::ChatTemplate> chat;  // needed for messages only
  bool assistant_only_loss = true, completion_only_loss = true;
};
/// Token ids and labels of a row. The end-of-turn (messages) or end-of-text (prompt_completion,
/// text) token is supervised, so that the model learns to stop.
Example tokenize(const Row& row, DataFormat format, const Tokenization& how);

struct Dataset {
  std::vector<Example> examples;
  std::int64_t num_truncated = 0, num_dropped = 0, num_unsupervised = 0;
  std::int64_t num_tokens = 0, num_supervised = 0;
};
/// Reads and tokenises files in order and applies max_length. Rows that carry no supervised token are
/// dropped and counted. Throws ConfigError where nothing remains.
Dataset load_dataset(const std::vector<DataFile>& files, const DataConfig& config,
                     const Tokenization& how);

}  // namespace tailor::trainer
