#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace tailor::models::text {

/// What stands at the start of some bytes. A maximal subpart of an ill-formed sequence (Unicode 15,
/// section 3.9, table 3-8) is read as one U+FFFD, as Python's bytes.decode(errors="replace") does.
struct CodePoint {
  char32_t value;
  std::size_t num_bytes;
  bool valid;
  bool cut;  // not valid, but more bytes could make it so
};
CodePoint read_code_point(std::string_view bytes);  // of at least one byte

void append_code_point(char32_t value, std::string& out);

/// The text with every ill-formed sequence replaced. Answers `bytes` itself where nothing is wrong;
/// otherwise the answer lies in `storage`.
std::string_view valid_utf8(std::string_view bytes, std::string& storage);

}  // namespace tailor::models::text
