// How numbers are found in prose and LaTeX. One pass from left to right; nothing is looked at more
// than a bounded number of times.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <initializer_list>

#include "trainer/rewards/answer_text.hpp"

namespace tailor::trainer {
namespace {

constexpr auto kNone = std::string_view::npos;
constexpr int kMaxDepth = 8;  // of fractions within fractions

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/// What one of `words` the text begins with, or "".
std::string_view prefix(std::string_view text, std::initializer_list<std::string_view> words) {
  for (const auto word : words)
    if (text.starts_with(word)) return word;
  return {};
}
std::string_view suffix(std::string_view text, std::initializer_list<std::string_view> words) {
  for (const auto word : words)
    if (text.ends_with(word)) return word;
  return {};
}

/// A value read from the front of a text, and how many bytes it takes; none: 0 bytes.
struct Reading {
  double value = 0;
  std::size_t size = 0;
  bool whole = false;     // an integer without exponent
  bool is_point = false;  // behind it: more points and digits, so a version, no number
};

std::size_t num_digits(std::string_view text) {
  const auto end = std::ranges::find_if_not(text, is_digit);
  return static_cast<std::size_t>(end - text.begin());
}

/// Digits with thousands separators, without sign: the bytes taken; digits are added to `digits`.
std::size_t read_whole(std::string_view text, std::string& digits) {
  auto size = num_digits(text);
  digits += text.substr(0, size);
  if (size == 0 || size > 3) return size;
  while (true) {
    const auto rest = text.substr(size);
    const auto separator =
        prefix(rest, {",\\!", "{,}", "\\,", "\xE2\x80\xAF", "\xE2\x80\x89", ","});
    if (separator.empty() || num_digits(rest.substr(separator.size())) != 3) return size;
    digits += rest.substr(separator.size(), 3);
    size += separator.size() + 3;
  }
}

/// 1,234.5e6 without sign.
Reading read_decimal(std::string_view text) {
  std::string digits;
  Reading out{.size = read_whole(text, digits), .whole = true};
  if (text.substr(out.size, 1) == "." && out.size + 1 < text.size() &&
      is_digit(text[out.size + 1])) {
    const auto count = num_digits(text.substr(out.size + 1));
    digits += text.substr(out.size, count + 1);
    out.size += count + 1;
    out.whole = false;
    const auto rest = text.substr(out.size);
    out.is_point = rest.size() > 1 && rest[0] == '.' && is_digit(rest[1]);
  }
  if (out.size == 0) return {};
  if (out.size + 1 < text.size() && (text[out.size] == 'e' || text[out.size] == 'E')) {
    const bool sign = text[out.size + 1] == '-' || text[out.size + 1] == '+';
    const auto begin = out.size + 1 + sign;
    const auto count = begin < text.size() ? num_digits(text.substr(begin)) : 0;
    if (count > 0 && (begin + count == text.size() || !is_letter(text[begin + count]))) {
      digits += 'e';
      if (sign) digits += text[out.size + 1];
      digits += text.substr(begin, count);
      out.size = begin + count;
      out.whole = false;
    }
  }
  if (digits.front() == '.') digits.insert(0, "0");
  const auto* end = digits.data() + digits.size();
  const auto result = std::from_chars(digits.data(), end, out.value);
  if (result.ec != std::errc{} || result.ptr != end) out.value = std::nan("");  // beyond doubles
  return out;
}

/// {content} of balanced braces at the front: the bytes taken, 0 where there are none.
std::size_t braced(std::string_view text) {
  constexpr std::size_t kMaxBytes = 200;  // of a numerator
  if (!text.starts_with('{')) return 0;
  int depth = 0;
  for (std::size_t i = 0; i < std::min(text.size(), kMaxBytes); ++i) {
    depth += text[i] == '{' ? 1 : text[i] == '}' ? -1 : 0;
    if (depth == 0) return i + 1;
  }
  return 0;
}

/// `divides`: it may be the top of a/b.
Reading read_term(std::string_view text, int depth, bool divides = true);

std::size_t spaces(std::string_view text) {
  return std::min(text.find_first_not_of(' '), text.size());
}

/// A term that is all of `text`, with a sign and spaces.
Reading read_exactly(std::string_view text, int depth) {
  auto begin = spaces(text);
  const auto sign = prefix(text.substr(begin), {"-", "+", "\xE2\x88\x92"});
  begin += sign.size();
  auto out = read_term(text.substr(begin), depth);
  if (out.size == 0 || begin + out.size + spaces(text.substr(begin + out.size)) != text.size())
    return {};
  if (!sign.empty() && sign != "+") out.value = -out.value;
  out.size = text.size();
  return out;
}

/// One argument of a LaTeX command: {a}, or one digit.
Reading read_argument(std::string_view text, int depth) {
  if (const auto size = braced(text); size > 0) {
    auto out = read_exactly(text.substr(1, size - 2), depth);
    if (out.size > 0) out.size = size;
    return out;
  }
  if (text.empty() || !is_digit(text[0])) return {};
  return {.value = static_cast<double>(text[0] - '0'), .size = 1, .whole = true};
}

Reading read_frac(std::string_view text, int depth) {
  const auto command = prefix(text, {"\\frac", "\\dfrac", "\\tfrac", "\\cfrac"});
  if (command.empty() || depth >= kMaxDepth) return {};
  const auto top = read_argument(text.substr(command.size()), depth + 1);
  if (top.size == 0) return {};
  const auto bottom = read_argument(text.substr(command.size() + top.size), depth + 1);
  if (bottom.size == 0) return {};
  return {.value = top.value / bottom.value, .size = command.size() + top.size + bottom.size};
}

/// " 3/4" or "\frac{3}{4}" behind a whole number: a proper fraction that is added to it.
Reading read_mixed(std::string_view text, int depth) {
  const auto space = spaces(text);
  if (space > 1) return {};
  if (auto frac = read_frac(text.substr(space), depth); frac.size > 0) {
    frac.size += space;
    return frac.value > 0 && frac.value < 1 ? frac : Reading{};
  }
  if (space == 0) return {};
  const auto top = num_digits(text.substr(1));
  if (top == 0 || top > 6 || text.substr(1 + top, 1) != "/") return {};
  const auto bottom = num_digits(text.substr(2 + top));
  if (bottom == 0 || bottom > 6 || text.substr(2 + top + bottom, 1) == "/") return {};
  const auto value =
      read_decimal(text.substr(1, top)).value / read_decimal(text.substr(2 + top, bottom)).value;
  return value > 0 && value < 1 ? Reading{value, 2 + top + bottom} : Reading{};
}

/// "/b" behind a number; a date has two of them.
Reading read_over(std::string_view text) {
  auto at = spaces(text) == 1 ? std::size_t{1} : std::size_t{0};
  if (text.substr(at, 1) != "/") return {};
  ++at;
  if (text.substr(at, 1) == " ") ++at;
  auto bottom = read_decimal(text.substr(at));
  if (bottom.size == 0 || text.substr(at + bottom.size, 1) == "/") return {};
  bottom.size += at;
  return bottom;
}

/// "^b" or "^{b}"; prose means all digits of b.
Reading read_power(std::string_view text, int depth) {
  if (!text.starts_with('^')) return {};
  auto out = read_argument(text.substr(1), depth + 1);
  if (out.size == 1) {
    out.size = num_digits(text.substr(1));
    out.value = read_decimal(text.substr(1, out.size)).value;
  }
  if (out.size > 0) ++out.size;
  return out;
}

/// " \times 10^{b}": the factor.
Reading read_scale(std::string_view text, int depth) {
  auto at = spaces(text);
  const auto times = prefix(text.substr(at), {"\\times", "\\cdot", "\xC3\x97", "x", "*"});
  if (times.empty() || at > 1) return {};
  at += times.size();
  at += spaces(text.substr(at));
  if (!text.substr(at).starts_with("10^")) return {};
  const auto power = read_power(text.substr(at + 2), depth);
  if (power.size == 0) return {};
  return {.value = std::pow(10.0, power.value), .size = at + 2 + power.size};
}

/// A number without sign at the front of `text`.
Reading read_term(std::string_view text, int depth, bool divides) {
  if (auto frac = read_frac(text, depth); frac.size > 0) return frac;
  auto out = read_decimal(text);
  if (out.size == 0 || out.is_point) return out;
  const auto rest = [&] { return text.substr(out.size); };
  const auto take = [&](const Reading& more, double value) {
    out = {.value = value, .size = out.size + more.size};
  };
  if (const auto more = read_power(rest(), depth); more.size > 0)
    take(more, std::pow(out.value, more.value));
  else if (const auto scale = read_scale(rest(), depth); scale.size > 0)
    take(scale, out.value * scale.value);
  else if (const auto mixed = out.whole ? read_mixed(rest(), depth) : Reading{}; mixed.size > 0)
    take(mixed, out.value + mixed.value);
  else if (const auto over = divides ? read_over(rest()) : Reading{}; over.size > 0)
    take(over, out.value / over.value);
  return out;
}

/// What stands before a number's digits: a currency, a sign, or both in either order.
struct Front {
  std::size_t begin;
  bool negative = false;
};
Front front_of(std::string_view text, std::size_t at) {
  Front out{at};
  const auto currency = [&] {
    const auto before = text.substr(0, out.begin);
    out.begin -=
        suffix(before, {"\\$", "$", "\xE2\x82\xAC", "\xC2\xA3", "\xC2\xA5", "\xE2\x82\xB9"}).size();
  };
  currency();
  const auto sign = suffix(text.substr(0, out.begin), {"-", "+", "\xE2\x88\x92"});
  if (sign.empty()) return out;
  const auto before = text.substr(0, out.begin - sign.size());
  // A dash between numbers or words is no sign.
  const bool joins = !before.empty() && (is_letter(before.back()) || is_digit(before.back()) ||
                                         std::string_view("-)]}%_").find(before.back()) != kNone);
  if (joins) return out;
  out.begin -= sign.size();
  out.negative = sign != "+";
  currency();
  return out;
}

/// Digits that belong to a name, a subscript or the exponent of a unit.
bool belongs_to_word(std::string_view text, std::size_t at) {
  auto before = text.substr(0, at);
  if (before.empty()) return false;
  if (is_letter(before.back())) return true;
  if (before.ends_with('{') || before.ends_with('-')) before.remove_suffix(1);
  if (before.ends_with('{')) before.remove_suffix(1);
  if (before.ends_with('^')) return true;
  if (!before.ends_with('_') || before.size() < 2) return false;
  const char named = before[before.size() - 2];
  return is_letter(named) || is_digit(named) || named == '}' || named == ')';
}

struct Found {
  Number number;
  std::size_t begin;
};

/// The first and the last number of a text.
struct Numbers {
  std::optional<Found> first, last;
};
Numbers numbers_of(std::string_view text) {
  Numbers out;
  for (std::size_t at = 0; at < text.size();) {
    const auto rest = text.substr(at);
    if (const auto root = prefix(rest, {"\\sqrt"}); !root.empty()) {
      at += root.size() + braced(rest.substr(root.size()));
      continue;
    }
    const bool starts = is_digit(rest[0]) || rest[0] == '\\' ||
                        (rest[0] == '.' && rest.size() > 1 && is_digit(rest[1]));
    const bool in_date = at > 0 && text[at - 1] == '/';
    const auto term = starts ? read_term(rest, 0, !in_date) : Reading{};
    if (term.size == 0) {
      ++at;
      continue;
    }
    auto end = at + term.size;
    while (term.is_point && end < text.size() && (is_digit(text[end]) || text[end] == '.')) ++end;
    const auto behind = text.substr(end);
    const bool irrational = !prefix(behind.substr(spaces(behind)), {"\\sqrt", "\\pi"}).empty();
    if (!term.is_point && !irrational && std::isfinite(term.value) && !belongs_to_word(text, at)) {
      const auto front = front_of(text, at);
      const bool percent =
          !prefix(behind, {"%", "\\%", " %", " \\%", " percent", "\\ \\%"}).empty();
      out.last = {{.value = front.negative ? -term.value : term.value, .percent = percent},
                  front.begin};
      if (!out.first) out.first = out.last;
    }
    at = end;
  }
  return out;
}

/// Whether an answer begins with the number at `begin`: no word stands before it.
bool begins_with(std::string_view text, std::size_t begin) {
  return std::ranges::none_of(text.substr(0, begin),
                              [](char c) { return is_letter(c) || is_digit(c); });
}

}  // namespace

std::optional<Number> answer_number(std::string_view text) {
  if (const auto marked = marked_answer(text)) {
    const auto numbers = numbers_of(marked->content);
    const bool at_front = numbers.first && begins_with(marked->content, numbers.first->begin);
    if (at_front) return numbers.first->number;
    if (!marked->after_hashes)
      return numbers.last ? std::optional(numbers.last->number) : std::nullopt;
  }
  const auto numbers = numbers_of(text);
  return numbers.last ? std::optional(numbers.last->number) : std::nullopt;
}

bool equal_numbers(const Number& a, const Number& b, double tolerance) {
  const auto near = [&](double x, double y) {
    return std::abs(x - y) <= tolerance * std::max(1.0, std::abs(y));
  };
  if (near(a.value, b.value)) return true;
  if (a.percent == b.percent) return false;
  return a.percent ? near(a.value / 100, b.value) : near(a.value, b.value / 100);
}

}  // namespace tailor::trainer
