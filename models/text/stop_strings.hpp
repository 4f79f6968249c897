#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "models/text/tokenizer.hpp"

namespace tailor::models::text {

/// Text that grows and ends before the first of some strings. What could still become the beginning
/// of one is held back, so that no part of a stop string is ever shown.
class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  std::string push(std::string_view text);  // what can be shown now
  std::string flush();                      // the rest, when no more text comes
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string pending_;
  bool stopped_ = false;
};

/// A completion's tokens as text: whole characters only, special tokens left out, ended by stop
/// strings.
class CompletionText {
 public:
  CompletionText(std::shared_ptr<const Tokenizer> tokenizer, std::vector<std::string> stops)
      : decoder_(std::move(tokenizer), /*skip_special_tokens=*/true), stops_(std::move(stops)) {}

  std::string push(std::int64_t id);  // new text that can be shown
  std::string finish();
  bool stopped() const { return stops_.stopped(); }
  const std::string& text() const { return text_; }  // all that was answered so far

 private:
  StreamDecoder decoder_;
  StopStrings stops_;
  std::string text_;
};

}  // namespace tailor::models::text
