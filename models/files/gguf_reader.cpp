#include "models/files/gguf_reader.hpp"

#include <bit>

namespace tailor::models {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::uint64_t kMaxArrayLength = 1 << 24;  // vocabularies have some 10^5 entries

}  // namespace

enum class GgufReader::Kind : std::uint32_t {
  Uint8,
  Int8,
  Uint16,
  Int16,
  Uint32,
  Int32,
  Float32,
  Bool,
  String,
  Array,
  Uint64,
  Int64,
  Float64
};

/// Bytes of one value in the file; of a string at least its length. 0 for what is no kind.
std::uint64_t GgufReader::min_bytes(Kind kind) {
  switch (kind) {
    case Kind::Uint8:
    case Kind::Int8:
    case Kind::Bool:
      return 1;
    case Kind::Uint16:
    case Kind::Int16:
      return 2;
    case Kind::Uint32:
    case Kind::Int32:
    case Kind::Float32:
      return 4;
    case Kind::String:
    case Kind::Uint64:
    case Kind::Int64:
    case Kind::Float64:
      return 8;
    case Kind::Array:
      return 4 + 8;
  }
  return 0;
}

void GgufReader::fail(const std::string& problem) const {
  throw FileError(file_ + ": " + place + ": " + problem);
}

void GgufReader::need(std::uint64_t size) const {
  if (size > left()) {
    fail("truncated: expected " + std::to_string(size) + " bytes at byte " + std::to_string(at_) +
         ", found " + std::to_string(left()));
  }
}

std::string GgufReader::text() {
  const auto size = scalar<std::uint64_t>();
  need(size);
  std::string value(bytes_.substr(at_, size));
  at_ += size;
  return value;
}

void GgufReader::check_count(const char* what, std::uint64_t count,
                             std::uint64_t bytes_each) const {
  if (count > left() / bytes_each) {
    fail(std::to_string(count) + " " + what + " do not fit into the " + std::to_string(left()) +
         " bytes that follow");
  }
}

GgufReader::Kind GgufReader::kind() {
  const auto value = scalar<std::uint32_t>();
  if (value > static_cast<std::uint32_t>(Kind::Float64)) {
    fail("value type " + std::to_string(value) + " is not known");
  }
  return static_cast<Kind>(value);
}

GgufValue GgufReader::value() {
  const Kind found = kind();
  switch (found) {
    case Kind::Bool:
      return {truth()};
    case Kind::String:
      return {text()};
    case Kind::Array:
      return {array()};
    case Kind::Float32:
    case Kind::Float64:
      return {floating(found)};
    case Kind::Int8:
    case Kind::Int16:
    case Kind::Int32:
    case Kind::Int64:
      return {integer(found)};
    case Kind::Uint64:
      return {scalar<std::uint64_t>()};
    default:
      return {static_cast<std::uint64_t>(integer(found))};
  }
}

bool GgufReader::truth() {
  const auto value = scalar<std::uint8_t>();
  if (value > 1) fail("expected a boolean, found byte " + std::to_string(value));
  return value == 1;
}

double GgufReader::floating(Kind kind) {
  return kind == Kind::Float32 ? static_cast<double>(scalar<float>()) : scalar<double>();
}

std::int64_t GgufReader::integer(Kind kind) {
  switch (kind) {
    case Kind::Bool:
      return truth() ? 1 : 0;
    case Kind::Uint8:
      return scalar<std::uint8_t>();
    case Kind::Int8:
      return scalar<std::int8_t>();
    case Kind::Uint16:
      return scalar<std::uint16_t>();
    case Kind::Int16:
      return scalar<std::int16_t>();
    case Kind::Uint32:
      return scalar<std::uint32_t>();
    case Kind::Int32:
      return scalar<std::int32_t>();
    default:
      break;
  }
  const auto value = scalar<std::int64_t>();
  if (kind == Kind::Uint64 && value < 0) fail("a number of the list is above 2^63 - 1");
  return value;
}

GgufValue::Array GgufReader::array() {
  const Kind element = kind();
  if (element == Kind::Array) fail("a list of lists is not supported");
  const auto length = scalar<std::uint64_t>();
  if (length > kMaxArrayLength) {
    fail("a list of " + std::to_string(length) + " values, the limit is " +
         std::to_string(kMaxArrayLength));
  }
  check_count("values of a list", length, min_bytes(element));
  if (element == Kind::String) {
    std::vector<std::string> values(length);
    for (std::string& value : values) value = text();
    return values;
  }
  if (element == Kind::Float32 || element == Kind::Float64) {
    std::vector<double> values(length);
    for (double& value : values) value = floating(element);
    return values;
  }
  std::vector<std::int64_t> values(length);
  for (std::int64_t& value : values) value = integer(element);
  return values;
}

}  // namespace tailor::models
