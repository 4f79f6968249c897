#include <array>
#include <charconv>

#include "models/files/gguf_model.hpp"

namespace tailor::models {

void GgufMetadata::fail(const std::string& key, const std::string& problem) const {
  throw FileError(file_ + ": metadata " + in_quotes(key) + ": " + problem);
}

const GgufValue* GgufMetadata::find(const std::string& key, bool required) const {
  const auto found = header_.metadata.find(key);
  if (found != header_.metadata.end()) return &found->second;
  if (required) fail(key, "missing");
  return nullptr;
}

std::int64_t GgufMetadata::integer(const std::string& key,
                                   std::optional<std::int64_t> fallback) const {
  const GgufValue* value = find(key, !fallback);
  if (value == nullptr) return *fallback;
  if (const auto* number = std::get_if<std::int64_t>(&value->value)) return *number;
  if (const auto* number = std::get_if<std::uint64_t>(&value->value)) {
    if (*number > INT64_MAX) fail(key, std::to_string(*number) + " is too large");
    return static_cast<std::int64_t>(*number);
  }
  if (std::holds_alternative<GgufValue::Array>(value->value)) {
    const auto list = integers(key);
    if (list.empty()) fail(key, "expected a number, found an empty list");
    for (const std::int64_t number : list) {
      if (number != list[0]) fail(key, "layers that differ are not supported");
    }
    return list[0];
  }
  fail(key, "expected a whole number");
}

double GgufMetadata::number(const std::string& key, std::optional<double> fallback) const {
  const GgufValue* value = find(key, !fallback);
  if (value == nullptr) return *fallback;
  const auto* number = std::get_if<double>(&value->value);
  return number != nullptr ? *number : static_cast<double>(integer(key));
}

bool GgufMetadata::boolean(const std::string& key, bool fallback) const {
  const GgufValue* value = find(key, false);
  if (value == nullptr) return fallback;
  const auto* truth = std::get_if<bool>(&value->value);
  if (truth == nullptr) fail(key, "expected a boolean");
  return *truth;
}

std::string GgufMetadata::text(const std::string& key, std::optional<std::string> fallback) const {
  const GgufValue* value = find(key, !fallback);
  if (value == nullptr) return *fallback;
  const auto* text = std::get_if<std::string>(&value->value);
  if (text == nullptr) fail(key, "expected a text");
  return *text;
}

const std::vector<std::string>& GgufMetadata::texts(const std::string& key) const {
  const auto* array = std::get_if<GgufValue::Array>(&find(key, true)->value);
  const auto* list = array == nullptr ? nullptr : std::get_if<std::vector<std::string>>(array);
  if (list == nullptr) fail(key, "expected a list of texts");
  return *list;
}

std::vector<std::int64_t> GgufMetadata::integers(const std::string& key) const {
  const GgufValue* value = find(key, false);
  if (value == nullptr) return {};
  const auto* array = std::get_if<GgufValue::Array>(&value->value);
  const auto* list = array == nullptr ? nullptr : std::get_if<std::vector<std::int64_t>>(array);
  if (list == nullptr) fail(key, "expected a list of whole numbers");
  return *list;
}

double shortest_decimal(double value) {
  const auto narrow = static_cast<float>(value);
  if (static_cast<double>(narrow) != value) return value;
  std::array<char, 32> text{};
  const char* end = std::to_chars(text.data(), text.data() + text.size(), narrow).ptr;
  double wide = 0;
  std::from_chars(text.data(), end, wide);
  return wide;
}

}  // namespace tailor::models
