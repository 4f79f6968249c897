#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

namespace tailor::models::text {

/// An expression that backtracks without end on a text.
class RegexLimit : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A user's regular expression, in PCRE2's syntax (which is Perl's), over UTF-8: `.` and classes
/// are of code points and of Unicode. Bytes that are no UTF-8 match nothing. Immutable; one object
/// may search in many threads.
class Regex {
 public:
  /// Throws models::FileError, beginning with `place`, where the expression is wrong.
  Regex(const std::string& pattern, const std::string& place);
  ~Regex();
  Regex(Regex&&) noexcept;

  /// Whether it matches somewhere in `text`. Throws RegexLimit after some ten million steps.
  bool found_in(std::string_view text) const;

 private:
  struct Code;
  std::unique_ptr<Code> code_;
};

}  // namespace tailor::models::text
