#include "models/text/byte_alphabet.hpp"

#include <array>
#include <cstdint>

#include "models/text/utf8.hpp"

namespace tailor::models::text {
namespace {

struct Alphabet {
  std::array<std::string, 256> symbols;
  std::array<std::int16_t, 0x144> bytes;  // by code point, -1 where it is none of the alphabet
};

Alphabet make_alphabet() {
  Alphabet alphabet;
  alphabet.bytes.fill(-1);
  char32_t next = 0x100;  // bytes that do not print take the code points from here on
  for (int byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
    const char32_t symbol = prints ? static_cast<char32_t>(byte) : next++;
    append_code_point(symbol, alphabet.symbols[static_cast<std::size_t>(byte)]);
    alphabet.bytes[symbol] = static_cast<std::int16_t>(byte);
  }
  return alphabet;
}

const Alphabet& alphabet() {
  static const Alphabet instance = make_alphabet();
  return instance;
}

}  // namespace

std::string_view byte_symbol(unsigned char byte) { return alphabet().symbols[byte]; }

void append_byte_symbols(std::string_view bytes, std::string& out) {
  for (const char byte : bytes) out += byte_symbol(static_cast<unsigned char>(byte));
}

std::optional<std::string> bytes_of_symbols(std::string_view text) {
  const auto& known = alphabet().bytes;
  std::string bytes;
  bytes.reserve(text.size());
  while (!text.empty()) {
    const CodePoint next = read_code_point(text);
    if (!next.valid || next.value >= known.size() || known[next.value] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(known[next.value]));
    text.remove_prefix(next.num_bytes);
  }
  return bytes;
}

}  // namespace tailor::models::text
