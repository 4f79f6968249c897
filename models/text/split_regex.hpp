#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace tailor::models::text {

/// Buffers of one thread's matching.
class MatchBuffers {
 public:
  MatchBuffers();
  ~MatchBuffers();
  MatchBuffers(const MatchBuffers&) = delete;
  MatchBuffers& operator=(const MatchBuffers&) = delete;

 private:
  friend class SplitRegex;
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

/// A regular expression of a tokenizer.json, read as HF tokenizers reads it (Oniguruma with Ruby's
/// syntax and Unicode 16) and run by PCRE2. Immutable and thread-safe.
class SplitRegex {
 public:
  /// Throws models::FileError, beginning with `place`, where the expression is wrong or says
  /// something else to PCRE2 than to Oniguruma.
  SplitRegex(const std::string& pattern, const std::string& place);
  ~SplitRegex();

  /// Calls `sink` with the pieces of `text` (valid UTF-8) in order: matches and what lies between
  /// them, none of them empty. Throws models::FileError where an expression backtracks without end.
  void split(std::string_view text, MatchBuffers& buffers,
             const std::function<void(std::string_view)>& sink) const;
  bool matches(std::string_view text, MatchBuffers& buffers) const;

 private:
  struct Code;
  struct Span {
    std::size_t begin, end;
  };
  bool search(std::string_view text, std::size_t from, MatchBuffers& buffers, Span& found) const;

  std::string pattern_;
  std::string place_;
  std::unique_ptr<Code> code_;
};

/// The expression in PCRE2's syntax; see SplitRegex.
std::string pcre2_pattern(std::string_view pattern, const std::string& place);

}  // namespace tailor::models::text
