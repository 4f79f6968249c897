#pragma once

#include <string>
#include <string_view>

namespace tailor::models::text {

/// Canonical composition (NFC) of valid UTF-8 as HF tokenizers computes it, whose tables are those
/// of Unicode 9: marks and pairs that are younger stay as they are. Answers `text` itself where it
/// cannot change; otherwise the answer lies in `storage`. Takes O(n log n) for any text.
std::string_view nfc(std::string_view text, std::string& storage);

}  // namespace tailor::models::text
