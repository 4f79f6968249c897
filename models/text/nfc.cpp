#include "models/text/nfc.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "models/text/utf8.hpp"

namespace tailor::models::text {
namespace {

struct Range {
  char32_t first, last;
};
// Assigned after Unicode 9 (up to 17) and reordered, decomposed or composed by newer tables.
constexpr std::array<Range, 51> kYoung{{
    {0x7fd, 0x7fd},     {0x897, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},
    {0xc3c, 0xc3c},     {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},
    {0x1abf, 0x1aff},   {0x1df6, 0x1dfa},   {0xa82c, 0xa82c},   {0x105c9, 0x105c9},
    {0x105d2, 0x105d2}, {0x105da, 0x105da}, {0x105e4, 0x105e4}, {0x10d24, 0x10d27},
    {0x10d69, 0x10d6d}, {0x10eab, 0x10eac}, {0x10efa, 0x10eff}, {0x10f46, 0x10f50},
    {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x11380, 0x113e2},
    {0x1145e, 0x1145e}, {0x1182c, 0x1183a}, {0x11930, 0x11930}, {0x11935, 0x11938},
    {0x1193d, 0x1193e}, {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34},
    {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45},
    {0x11d97, 0x11d97}, {0x11f41, 0x11f42}, {0x1611e, 0x1612f}, {0x16d63, 0x16d6a},
    {0x16ff0, 0x16ff1}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae},
    {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef}, {0x1e5ee, 0x1e5ef}, {0x1e6e3, 0x1e6e3},
    {0x1e6e6, 0x1e6e6}, {0x1e6ee, 0x1e6ef}, {0x1e6f5, 0x1e6f5},
}};

bool is_young(char32_t value) {
  const auto range = std::lower_bound(
      kYoung.begin(), kYoung.end(), value,
      [](const Range& candidate, char32_t wanted) { return candidate.last < wanted; });
  return range != kYoung.end() && range->first <= value;
}

int combining_class(std::int32_t value) { return utf8proc_get_property(value)->combining_class; }

// Appends the composition of `characters`, none of them young, and empties it. utf8proc's own
// decomposition sorts marks by exchanging neighbours, in quadratic time.
void flush(std::vector<std::int32_t>& characters, std::string& out) {
  std::vector<std::int32_t> decomposed;
  decomposed.reserve(characters.size());
  const auto option = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  for (const std::int32_t character : characters) {
    std::array<std::int32_t, 8> parts{};  // a canonical decomposition has up to 4
    int boundclass = 0;
    const auto count = utf8proc_decompose_char(
        character, parts.data(), static_cast<utf8proc_ssize_t>(parts.size()), option, &boundclass);
    decomposed.insert(decomposed.end(), parts.begin(), parts.begin() + count);
  }
  const auto is_starter = [](std::int32_t value) { return combining_class(value) == 0; };
  for (auto begin = decomposed.begin(); begin != decomposed.end();) {
    begin = std::find_if_not(begin, decomposed.end(), is_starter);
    const auto end = std::find_if(begin, decomposed.end(), is_starter);
    std::stable_sort(begin, end, [](std::int32_t left, std::int32_t right) {
      return combining_class(left) < combining_class(right);
    });
    begin = end;
  }
  const auto length = utf8proc_normalize_utf32(
      decomposed.data(), static_cast<utf8proc_ssize_t>(decomposed.size()), option);
  decomposed.resize(static_cast<std::size_t>(length));
  for (const std::int32_t value : decomposed) append_code_point(static_cast<char32_t>(value), out);
  characters.clear();
}

}  // namespace

std::string_view nfc(std::string_view text, std::string& storage) {
  // Below U+0300 (lead byte 0xCC) everything is composed and nothing combines.
  const auto may_change = [](char byte) { return static_cast<unsigned char>(byte) >= 0xCC; };
  if (std::none_of(text.begin(), text.end(), may_change)) return text;
  storage.clear();
  std::vector<std::int32_t> characters;
  while (!text.empty()) {
    const CodePoint next = read_code_point(text);
    if (is_young(next.value)) {
      flush(characters, storage);
      append_code_point(next.value, storage);
    } else {
      characters.push_back(static_cast<std::int32_t>(next.value));
    }
    text.remove_prefix(next.num_bytes);
  }
  flush(characters, storage);
  return storage;
}

}  // namespace tailor::models::text
