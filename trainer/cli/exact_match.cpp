#include "trainer/cli/exact_match.hpp"

#include <algorithm>
#include <cctype>
#include <string_view>

#include "configs/reader.hpp"
#include "trainer/cli/complete.hpp"

namespace tailor::trainer::cli {
namespace {

constexpr std::size_t kPatternWindow = 4096;  // std::regex recurses once a character

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string_view trimmed(std::string_view text) {
  constexpr auto kSpace = " \t\r\n";
  const auto begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

/// A number that begins at a digit, or at a sign or point before one: its end and canonical form.
struct Number {
  std::size_t end;
  std::string text;
};

std::optional<Number> number_at(std::string_view text, std::size_t begin) {
  const auto digit_at = [&](std::size_t i) { return i < text.size() && is_digit(text[i]); };
  auto i = begin;
  // "7-3" ends in 3, not in -3
  const bool is_negative =
      text[i] == '-' && (i == 0 || !std::isalnum(static_cast<unsigned char>(text[i - 1])));
  if (is_negative) ++i;
  if (is_negative && i < text.size() && text[i] == '$') ++i;
  if (!digit_at(i) && !(i < text.size() && text[i] == '.' && digit_at(i + 1))) return {};
  std::string whole, fraction;
  // A comma belongs to the number where three digits follow and no fourth.
  const auto is_separator = [&] {
    return i < text.size() && text[i] == ',' && digit_at(i + 1) && digit_at(i + 2) &&
           digit_at(i + 3) && !digit_at(i + 4);
  };
  while (digit_at(i) || (!whole.empty() && is_separator())) {
    if (text[i] != ',') whole += text[i];
    ++i;
  }
  if (i < text.size() && text[i] == '.' && digit_at(i + 1))
    for (++i; digit_at(i); ++i) fraction += text[i];
  whole.erase(0, std::min(whole.find_first_not_of('0'), whole.size()));
  fraction.erase(fraction.find_last_not_of('0') + 1);
  if (whole.empty()) whole = "0";
  auto canonical = fraction.empty() ? whole : whole + "." + fraction;
  if (is_negative && canonical != "0") canonical.insert(0, 1, '-');
  return Number{i, canonical};
}

std::optional<std::string> first_number(std::string_view text) {
  for (std::size_t i = 0; i < text.size(); ++i)
    if (const auto number = number_at(text, i)) return number->text;
  return {};
}

std::optional<std::string> last_number(std::string_view text) {
  std::optional<std::string> last;
  for (std::size_t i = 0; i < text.size();) {
    const auto number = number_at(text, i);
    if (number) last = number->text;
    i = number ? number->end : i + 1;
  }
  return last;
}

/// Behind the last "####" or "answer:".
std::optional<std::string_view> behind_mark(std::string_view text) {
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  std::optional<std::size_t> begin;
  for (const std::string_view mark : {"####", "answer:"})
    if (const auto found = lower.rfind(mark); found != std::string::npos)
      begin = std::max(begin.value_or(0), found + mark.size());
  if (!begin) return {};
  return text.substr(*begin);
}

/// A text that is a number and nothing else, in canonical form; any other as it is.
std::string normalised(std::string_view text) {
  text = trimmed(text);
  if (!text.empty())
    if (const auto number = number_at(text, 0); number && number->end == text.size())
      return number->text;
  return std::string(text);
}

}  // namespace

AnswerRule::AnswerRule(const std::optional<std::string>& pattern) {
  if (!pattern) return;
  try {
    pattern_.emplace(*pattern, std::regex::ECMAScript);
  } catch (const std::regex_error& error) {
    throw configs::ConfigError("--answer-pattern " + *pattern + ": " + error.what());
  }
}

std::optional<std::string> AnswerRule::answer(const std::string& text) const {
  if (!pattern_) {
    if (const auto behind = behind_mark(text))
      if (auto number = first_number(*behind)) return number;
    return last_number(text);
  }
  const auto window =
      text.size() > kPatternWindow ? text.substr(text.size() - kPatternWindow) : text;
  std::optional<std::string> last;
  for (std::sregex_iterator match(window.begin(), window.end(), *pattern_), end; match != end;
       ++match)
    last = normalised((*match)[match->size() > 1 ? 1 : 0].str());
  return last;
}

bool AnswerRule::matches(const std::string& completion, const std::string& reference) const {
  const auto expected = answer(reference);
  if (!expected) return trimmed(completion) == trimmed(reference);
  return answer(completion) == expected;
}

std::vector<Question> questions(const DataFile& file, PromptMaker& maker) {
  if (file.format != DataFormat::Messages && file.format != DataFormat::PromptCompletion)
    throw configs::ConfigError(file.path.string() +
                               ": exact match needs rows of messages or prompt_completion, found " +
                               format_name(file.format));
  std::vector<Question> found;
  RowProblems problems;
  visit_rows(file, problems, [&](Row&& row) {
    if (file.format == DataFormat::PromptCompletion) {
      found.push_back({maker.from_text(row.prompt), row.completion});
      return;
    }
    auto messages = std::move(row.messages);
    while (!messages.empty() && messages.back().role != "assistant") messages.pop_back();
    if (messages.size() < 2)
      throw configs::ConfigError(file.path.string() + ":" + std::to_string(row.line) +
                                 ": expected an assistant turn behind a question");
    auto reference = messages.back().content;
    messages.pop_back();
    found.push_back({maker.from_messages(std::move(messages)), std::move(reference)});
  });
  problems.check();
  if (found.empty()) throw configs::ConfigError(file.path.string() + ": has no rows");
  return found;
}

std::vector<Answered> answer_questions(
    const models::CausalLM& model, const std::shared_ptr<const models::text::Tokenizer>& tokenizer,
    const std::vector<Question>& questions, const models::GenerationOptions& options,
    std::int64_t max_new_tokens, const AnswerRule& rule,
    const std::function<void(std::size_t)>& progress) {
  std::vector<Prompt> prompts;
  for (const auto& question : questions) prompts.push_back(question.prompt);
  std::vector<Answered> answered(questions.size());
  std::size_t done = 0;
  complete(model, prompts, /*num_completions=*/1, max_new_tokens, options, {},
           [&](std::size_t i, const models::Completion& completion) {
             answered[i].completion =
                 tokenizer->decode(completion.ids, /*skip_special_tokens=*/true);
             answered[i].is_correct = rule.matches(answered[i].completion, questions[i].reference);
             if (progress) progress(++done);
           });
  return answered;
}

}  // namespace tailor::trainer::cli
