#include <algorithm>

#include "trainer/data/dataset.hpp"

namespace tailor::trainer {
namespace {

using Ids = std::vector<std::int64_t>;

/// The text with what the tokenizer puts before every text, not twice where the text begins with
/// it.
Ids with_prefix(const std::string& text, const models::text::Tokenizer& tokenizer) {
  auto ids = tokenizer.encode(text);
  const auto& prefix = tokenizer.spec().prefix_ids;
  if (!std::equal(prefix.begin(), prefix.end(), ids.begin(),
                  ids.begin() + static_cast<std::ptrdiff_t>(std::min(prefix.size(), ids.size()))))
    ids.insert(ids.begin(), prefix.begin(), prefix.end());
  return ids;
}

void end_text(Ids& ids, const models::text::Tokenizer& tokenizer) {
  const auto eos = tokenizer.spec().eos_id;
  if (!eos)
    throw configs::ConfigError(
        "the tokenizer has no end-of-text token (eos_token), which a text ends with");
  if (ids.empty() || ids.back() != *eos) ids.push_back(*eos);
}

/// Every token from `first` on is supervised, except that nothing predicts a document's first.
Example supervised_from(Ids ids, std::size_t first) {
  Example example;
  example.labels.assign(ids.size(), kIgnore);
  for (std::size_t t = std::max<std::size_t>(first, 1); t < ids.size(); ++t)
    example.labels[t] = ids[t];
  example.ids = std::move(ids);
  return example;
}

Example tokenize_messages(const Row& row, const Tokenization& how) {
  auto rendered = how.chat->encode(row.messages, /*add_generation_prompt=*/false);
  if (!how.assistant_only_loss) return supervised_from(std::move(rendered.ids), 0);
  Example example;
  example.labels.assign(rendered.ids.size(), kIgnore);
  for (std::size_t t = 1; t < rendered.ids.size(); ++t)
    if (rendered.from_assistant[t]) example.labels[t] = rendered.ids[t];
  example.ids = std::move(rendered.ids);
  return example;
}

Example tokenize_completion(const Row& row, const Tokenization& how) {
  auto ids = with_prefix(row.prompt, *how.tokenizer);
  const auto prompt_tokens = ids.size();
  auto completion = how.tokenizer->encode(row.completion);
  end_text(completion, *how.tokenizer);
  ids.insert(ids.end(), completion.begin(), completion.end());
  return supervised_from(std::move(ids), how.completion_only_loss ? prompt_tokens : 0);
}

Example checked_tokens(const Example& tokens, std::int64_t vocabulary) {
  for (std::size_t t = 0; t < tokens.ids.size(); ++t)
    if (tokens.ids[t] >= vocabulary)
      throw configs::ConfigError("input_ids[" + std::to_string(t) +
                                 "]: expected a token id below " + std::to_string(vocabulary) +
                                 ", the size of the vocabulary, found " +
                                 std::to_string(tokens.ids[t]));
  auto example = tokens;
  example.labels.front() = kIgnore;
  return example;
}

}  // namespace

Example tokenize(const Row& row, DataFormat format, const Tokenization& how) {
  switch (format) {
    case DataFormat::Messages:
      return tokenize_messages(row, how);
    case DataFormat::PromptCompletion:
      return tokenize_completion(row, how);
    case DataFormat::Tokens:
      return checked_tokens(row.tokens, how.tokenizer->size());
    case DataFormat::Text:
      break;
  }
  auto ids = with_prefix(row.text, *how.tokenizer);
  end_text(ids, *how.tokenizer);
  return supervised_from(std::move(ids), 0);
}

std::string render_supervision(const Example& example, const models::text::Tokenizer& tokenizer,
                               bool colour) {
  std::string text;
  for (std::size_t begin = 0; begin < example.ids.size();) {
    const bool supervised = example.labels[begin] != kIgnore;
    auto end = begin;
    while (end < example.ids.size() && (example.labels[end] != kIgnore) == supervised) ++end;
    const auto part = tokenizer.decode({example.ids.begin() + static_cast<std::ptrdiff_t>(begin),
                                        example.ids.begin() + static_cast<std::ptrdiff_t>(end)});
    if (supervised)
      text += colour ? "\033[32m" + part + "\033[0m" : "[[" + part + "]]";
    else
      text += part;
    begin = end;
  }
  return text;
}

}  // namespace tailor::trainer
