#include "models/files/file_error.hpp"

namespace tailor::models {

std::string in_quotes(std::string_view name) {
  constexpr std::size_t kMaxShown = 100;
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string text = "\"";
  for (const char c : name.substr(0, kMaxShown)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7f) {
      text += {'\\', 'x', kHex[byte >> 4], kHex[byte & 0xf]};
    } else {
      text += c;
    }
  }
  if (name.size() > kMaxShown) text += "...";
  return text + "\"";
}

std::string shape_text(std::span<const std::int64_t> shape) {
  std::string text = "(";
  for (const auto size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + ')';
}

}  // namespace tailor::models
