#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "models/files/pretrained.hpp"
#include "models/text/chat.hpp"
#include "trainer/grpo/prompt_source.hpp"

namespace tailor::trainer::cli {

/// What the model continues.
struct Prompt {
  std::string text;  // as the model sees it
  std::vector<std::int64_t> ids;
};

/// Turns what users write into prompts.
class PromptMaker {
 public:
  /// With `as_chat` a text is a user turn, else the model continues it as it stands. `system` is
  /// put before a conversation that has no system message; empty: the template's own.
  PromptMaker(const models::Pretrained& pretrained, bool as_chat, std::string system);

  /// Throws ConfigError for a text without any token.
  Prompt from_text(const std::string& text);
  Prompt from_messages(std::vector<models::text::Message> messages);

  /// Rows of a JSONL file: {"prompt": text or messages}, {"text": ...}, {"messages": [...]} up to
  /// the last user turn, {"input_ids": [...]}. Throws ConfigError with the problems of all rows.
  std::vector<Prompt> from_file(const std::filesystem::path& file);

  /// Rows of a JSONL file for GRPO: {"prompt": text or messages} or {"messages": [...]} up to the
  /// last user turn, with the other columns as they are. Throws ConfigError with the problems of
  /// all rows.
  std::vector<PromptRow> rows_from_file(const std::filesystem::path& file);

  /// Tokens that end a completion: the model's own and, once a conversation was made, the end of a
  /// turn.
  std::vector<std::int64_t> stop_ids() const;

 private:
  const models::text::ChatTemplate& chat();
  Prompt from_line(const std::string& line, const std::string& place);
  PromptRow row_from_line(const std::string& line, const std::string& place);
  Prompt from_ids(std::vector<std::int64_t> ids) const;

  const models::Pretrained& pretrained_;
  bool as_chat_;
  std::string system_;
  std::shared_ptr<const models::text::ChatTemplate> chat_;
};

}  // namespace tailor::trainer::cli
