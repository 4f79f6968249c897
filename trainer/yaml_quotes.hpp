#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tailor::trainer {

/// Always in double quotes, so that no text is taken for a number, a boolean or a null.
inline std::string in_quotes(std::string_view text) {
  constexpr auto kHex = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\')
      out += std::string("\\") + c;
    else if (byte < 0x20 || byte == 0x7F)
      out += std::string("\\x") + kHex[byte >> 4] + kHex[byte & 15];
    else
      out += c;
  }
  return out + '"';
}

inline std::string in_quotes(const std::vector<std::string>& names) {
  std::string out;
  for (const auto& name : names) out += (out.empty() ? "" : ", ") + in_quotes(name);
  return '[' + out + ']';
}

}  // namespace tailor::trainer
