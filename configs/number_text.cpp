#include "configs/number_text.hpp"

#include <charconv>
#include <cmath>
#include <system_error>

namespace tailor::configs {
namespace {

template <typename T>
std::optional<T> whole(const std::string& text) {
  T out{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return out;
}

}  // namespace

std::optional<std::int64_t> integer_of(const Value& value) {
  if (value.kind != Kind::Number || !is_integer(value.text)) return std::nullopt;
  return whole<std::int64_t>(value.text);
}

std::optional<double> number_of(const Value& value) {
  if (value.kind != Kind::Number) return std::nullopt;
  return whole<double>(value.text);
}

bool within(double number, const Range& range) {
  return std::isfinite(number) && number >= range.min && number <= range.max &&
         !(range.open_min && number == range.min) && !(range.open_max && number == range.max);
}

std::string number_text(double number) {
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, number).ptr;
  return {buffer, end};
}

std::string expected_number(const Range& range) {
  const bool lower = std::isfinite(range.min), upper = std::isfinite(range.max);
  std::string text = lower || upper ? "expected a number" : "expected a finite number";
  if (lower) text += (range.open_min ? " above " : " of at least ") + number_text(range.min);
  if (upper) {
    text += lower ? " and" : "";
    text += (range.open_max ? " below " : " of at most ") + number_text(range.max);
  }
  return text;
}

}  // namespace tailor::configs
