#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "models/text/chat.hpp"
#include "models/text/tokenizer.hpp"
#include "trainer/data/example.hpp"
#include "trainer/data/rows.hpp"
#include "trainer/run_config.hpp"

namespace tailor::trainer {

struct Tokenization {
  std::shared_ptr<const models::text::Tokenizer> tokenizer;
  std::shared_ptr<const models::text::ChatTemplate> chat;  // needed for messages only
  bool assistant_only_loss = true, completion_only_loss = true;
  std::int64_t vocab_size =
      0;  // of the model, which may be smaller than the tokenizer's; 0: unknown
};
/// Token ids and labels of a row. The end-of-turn (messages) or end-of-text (prompt_completion,
/// text) token is supervised, so that the model learns to stop. Prompt and completion are tokenised
/// apart: the prompt's tokens are those that generation will see. Text and prompt carry the
/// tokenizer's own prefix (BOS) exactly once. Throws ConfigError, without a place, where the
/// tokenizer has no end-of-text token that the format needs or a token id is outside of its
/// vocabulary.
Example tokenize(const Row& row, DataFormat format, const Tokenization& how);

struct Dataset {
  std::vector<Example> examples;
  std::int64_t num_truncated = 0, num_dropped = 0, num_unsupervised = 0;
  std::int64_t num_tokens = 0, num_supervised = 0;
};
/// Reads and tokenises files in order and applies max_length (the beginning of a row is kept). Rows
/// that carry no supervised token are dropped and counted. Throws ConfigError with the problems of
/// all files together, or where nothing remains, with a sample of what was read.
Dataset load_dataset(const std::vector<DataFile>& files, const DataConfig& config,
                     const Tokenization& how);

/// "1,234 rows, 56,789 tokens, 12,345 of them supervised; 3 truncated to max_length ..." for
/// people.
std::string describe(const Dataset& dataset);

/// Text of an example with its supervised parts between "[[" and "]]", or in green where `colour`.
std::string render_supervision(const Example& example, const models::text::Tokenizer& tokenizer,
                               bool colour = false);

}  // namespace tailor::trainer
