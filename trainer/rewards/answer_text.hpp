#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tailor::trainer {

/// The content of the last marked answer of a text, trimmed: \boxed{x} or \fbox{x}, a line of
/// "#### x" (GSM8K) or <answer>x</answer>, whichever begins last. Takes O(n) for any text.
struct MarkedAnswer {
  std::string_view content;
  bool after_hashes = false;  // which may also be a heading
};
std::optional<MarkedAnswer> marked_answer(std::string_view text);

/// A number as written, 20% being {20, percent}.
struct Number {
  double value = 0;
  bool percent = false;
};

/// The number that a text answers: that of its marked answer (the first one where the answer begins
/// with it, as in "5 cm of 12", else the last one, as in "x = 5"); without a mark the last number.
/// Read are signs, decimals, exponents, thousands separators (1,234, 1\,234, 1{,}234), currencies,
/// percents, a/b, \frac{a}{b}, mixed numbers and powers; passed over are units with their exponents
/// (5 m^2), subscripts (x_1), names (H2O) and roots. Absent: there is none that is finite.
std::optional<Number> answer_number(std::string_view text);

/// Equal within `tolerance`, relative and absolute below 1. 20% equals 20 as well as 0.2.
bool equal_numbers(const Number& a, const Number& b, double tolerance);

/// A text for comparison: white space at the ends goes, inside it becomes one space.
struct Normalisation {
  bool ignore_case = true;         // of ASCII letters
  bool ignore_punctuation = true;  // ASCII, at both ends; a sign before a digit stays
};
std::string normalised(std::string_view text, const Normalisation& how);

}  // namespace tailor::trainer
