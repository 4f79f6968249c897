#include "models/text/utf8.hpp"

#include <cstdint>
#include <cstring>

namespace tailor::models::text {
namespace {

constexpr char32_t kReplacement = 0xFFFD;

std::size_t num_ascii_bytes(std::string_view bytes) {
  std::size_t end = 0;
  for (; end + 8 <= bytes.size(); end += 8) {
    std::uint64_t word;
    std::memcpy(&word, bytes.data() + end, 8);
    if (word & 0x8080808080808080u) break;
  }
  while (end < bytes.size() && static_cast<unsigned char>(bytes[end]) < 0x80) ++end;
  return end;
}

std::size_t num_valid_bytes(std::string_view bytes) {
  std::size_t end = 0;
  while (true) {
    end += num_ascii_bytes(bytes.substr(end));
    if (end == bytes.size()) return end;
    const CodePoint next = read_code_point(bytes.substr(end));
    if (!next.valid) return end;
    end += next.num_bytes;
  }
}

}  // namespace

CodePoint read_code_point(std::string_view bytes) {
  const auto lead = static_cast<unsigned char>(bytes[0]);
  if (lead < 0x80) return {lead, 1, true, false};
  const std::size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4) return {kReplacement, 1, false, false};
  // The second byte excludes overlong forms, surrogates and what lies above U+10FFFF.
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  char32_t value = lead & (0xFFu >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) {
    if (i == bytes.size()) return {kReplacement, i, false, true};
    const auto byte = static_cast<unsigned char>(bytes[i]);
    if (byte < (i == 1 ? low : 0x80) || byte > (i == 1 ? high : 0xBF)) {
      return {kReplacement, i, false, false};
    }
    value = value << 6 | (byte & 0x3Fu);
  }
  return {value, length, true, false};
}

void append_code_point(char32_t value, std::string& out) {
  const auto put = [&out](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (value < 0x80) {
    put(value);
  } else if (value < 0x800) {
    put(0xC0 | value >> 6);
    put(0x80 | (value & 0x3F));
  } else if (value < 0x10000) {
    put(0xE0 | value >> 12);
    put(0x80 | (value >> 6 & 0x3F));
    put(0x80 | (value & 0x3F));
  } else {
    put(0xF0 | value >> 18);
    put(0x80 | (value >> 12 & 0x3F));
    put(0x80 | (value >> 6 & 0x3F));
    put(0x80 | (value & 0x3F));
  }
}

std::string_view valid_utf8(std::string_view bytes, std::string& storage) {
  std::size_t end = num_valid_bytes(bytes);
  if (end == bytes.size()) return bytes;
  storage.assign(bytes.substr(0, end));
  while (end < bytes.size()) {
    append_code_point(kReplacement, storage);
    end += read_code_point(bytes.substr(end)).num_bytes;
    const std::size_t valid = num_valid_bytes(bytes.substr(end));
    storage.append(bytes.substr(end, valid));
    end += valid;
  }
  return storage;
}

}  // namespace tailor::models::text
