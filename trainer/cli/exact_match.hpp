#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <regex>
#include <string>
#include <vector>

#include "models/generation/engine.hpp"
#include "models/text/chat.hpp"
#include "trainer/cli/prompts.hpp"
#include "trainer/data/rows.hpp"

namespace tailor::trainer::cli {

/// What counts as the answer in a text.
class AnswerRule {
 public:
  /// Without a pattern: the number behind the last "####" or "Answer:" (any case), else the last
  /// number. With one: the first group (or all) of its last match; ECMAScript syntax. Throws
  /// ConfigError for a pattern that is none.
  explicit AnswerRule(const std::optional<std::string>& pattern = {});

  /// In a form that compares: a number without thousands separators and needless zeros ("1,234.50"
  /// is "1234.5"), other text without space around it. Absent where the text has no answer.
  std::optional<std::string> answer(const std::string& text) const;

  /// Same answers; where the reference has none, the same text but for space around it.
  bool matches(const std::string& completion, const std::string& reference) const;

 private:
  std::optional<std::regex> pattern_;
};

/// A question with the answer that is right.
struct Question {
  Prompt prompt;
  std::string reference;  // the last assistant turn, or the completion
};

/// Rows of messages (up to the last assistant turn) or prompt_completion as questions. Throws
/// ConfigError for another format and for rows that end without an answer.
std::vector<Question> questions(const DataFile& file, PromptMaker& maker);

struct Answered {
  std::string completion;
  bool is_correct = false;
};

/// Greedy completions of all questions, compared. `progress` gets how many are done.
std::vector<Answered> answer_questions(
    const models::CausalLM& model, const std::shared_ptr<const models::text::Tokenizer>& tokenizer,
    const std::vector<Question>& questions, const models::GenerationOptions& options,
    std::int64_t max_new_tokens, const AnswerRule& rule,
    const std::function<void(std::size_t)>& progress = {});

}  // namespace tailor::trainer::cli
