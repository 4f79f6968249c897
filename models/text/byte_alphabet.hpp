#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tailor::models::text {

/// GPT-2's alphabet: every byte is a printable character ("Ġ" is a space), so that a vocabulary of
/// byte sequences is one of strings (https://github.com/openai/gpt-2/blob/master/src/encoder.py).
std::string_view byte_symbol(unsigned char byte);
void append_byte_symbols(std::string_view bytes, std::string& out);

/// The bytes that `text` spells, or nothing where a character is none of the alphabet.
std::optional<std::string> bytes_of_symbols(std::string_view text);

}  // namespace tailor::models::text
