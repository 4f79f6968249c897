#include "configs/value.hpp"

#include <algorithm>
#include <array>

namespace tailor::configs {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string_view skip_digits(std::string_view text) {
  return text.substr(
      static_cast<std::size_t>(std::ranges::find_if_not(text, is_digit) - text.begin()));
}

template <std::size_t N>
bool is_one_of(std::string_view text, const std::array<std::string_view, N>& words) {
  return std::ranges::find(words, text) != words.end();
}

/// -?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][-+]?[0-9]+)? with a digit before the exponent.
bool is_number(std::string_view text) {
  if (text.starts_with('-')) text.remove_prefix(1);
  auto rest = skip_digits(text);
  const auto whole = text.size() - rest.size();
  if (whole > 1 && text[0] == '0') return false;
  std::size_t fraction = 0;
  if (rest.starts_with('.')) {
    const auto behind = skip_digits(rest.substr(1));
    fraction = rest.size() - 1 - behind.size();
    rest = behind;
  }
  if (whole + fraction == 0) return false;
  if (rest.empty()) return true;
  if (rest[0] != 'e' && rest[0] != 'E') return false;
  rest.remove_prefix(1);
  if (rest.starts_with('-') || rest.starts_with('+')) rest.remove_prefix(1);
  return !rest.empty() && skip_digits(rest).empty();
}

}  // namespace

const Value* Value::find(std::string_view name) const {
  const auto entry = std::ranges::find(children, name, &Value::key);
  return kind != Kind::Map || entry == children.end() ? nullptr : &*entry;
}

Kind kind_of_plain(std::string_view text) {
  constexpr std::array<std::string_view, 5> kNulls{"", "~", "null", "Null", "NULL"};
  constexpr std::array<std::string_view, 6> kBooleans{"true",  "True",  "TRUE",
                                                      "false", "False", "FALSE"};
  if (is_one_of(text, kNulls)) return Kind::Null;
  if (is_one_of(text, kBooleans)) return Kind::Boolean;
  return is_number(text) ? Kind::Number : Kind::Text;
}

bool is_integer(std::string_view text) {
  return is_number(text) && text.find_first_of(".eE") == std::string_view::npos;
}

std::string shown(std::string_view text) {
  constexpr std::size_t kMaxBytes = 60;
  constexpr auto kHex = "0123456789abcdef";
  auto end = std::min(text.size(), kMaxBytes);
  while (end < text.size() && end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80)
    --end;
  std::string out;
  for (const char c : text.substr(0, end)) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n')
      out += "\\n";
    else if (c == '\t')
      out += "\\t";
    else if (byte < 0x20 || byte == 0x7F)
      out += std::string("\\x") + kHex[byte >> 4] + kHex[byte & 15];
    else
      out += c;
  }
  return end < text.size() ? out + "..." : out;
}

std::string found(const Value& value) {
  if (value.kind == Kind::Null) return ", found nothing";
  if (value.kind == Kind::List) return ", found a list";
  if (value.kind == Kind::Map) return ", found a section";
  return ", found \"" + shown(value.text) + '"';
}

}  // namespace tailor::configs
