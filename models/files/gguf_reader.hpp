#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "models/files/gguf.hpp"

namespace tailor::models {

/// Reads the fields of a GGUF header one after the other. A field that does not fit into what is
/// left of the bytes is a FileError that names the file, what is being read (`place`) and where.
class GgufReader {
 public:
  GgufReader(std::string_view bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  std::string place;  // what is being read, for messages
  [[noreturn]] void fail(const std::string& problem) const;

  std::uint64_t position() const { return at_; }
  std::uint64_t left() const { return bytes_.size() - at_; }
  void need(std::uint64_t size) const;
  /// `count` things of at least `bytes_each` must fit: before any of them is allocated.
  void check_count(const char* what, std::uint64_t count, std::uint64_t bytes_each) const;

  template <typename T>
  T scalar() {
    need(sizeof(T));
    T value;
    std::memcpy(&value, bytes_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }
  std::string text();
  GgufValue value();  // its kind first

 private:
  enum class Kind : std::uint32_t;
  static std::uint64_t min_bytes(Kind kind);
  Kind kind();
  bool truth();
  double floating(Kind kind);
  std::int64_t integer(Kind kind);
  GgufValue::Array array();

  std::string_view bytes_;
  const std::string& file_;
  std::uint64_t at_ = 0;
};

}  // namespace tailor::models
