#include "models/text/added_tokens.hpp"

#include <algorithm>

#include "models/text/utf8.hpp"

namespace tailor::models::text {
namespace {

bool is_space(char32_t value) {  // White_Space
  return (value >= 0x9 && value <= 0xD) || value == 0x20 || value == 0x85 || value == 0xA0 ||
         value == 0x1680 || (value >= 0x2000 && value <= 0x200A) || value == 0x2028 ||
         value == 0x2029 || value == 0x202F || value == 0x205F || value == 0x3000;
}

std::size_t end_of_spaces(std::string_view text, std::size_t at) {
  while (at < text.size()) {
    const CodePoint next = read_code_point(text.substr(at));
    if (!is_space(next.value)) break;
    at += next.num_bytes;
  }
  return at;
}

std::size_t begin_of_spaces(std::string_view text, std::size_t at) {
  while (at > 0) {
    std::size_t begin = at - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    if (!is_space(read_code_point(text.substr(begin)).value)) break;
    at = begin;
  }
  return at;
}

// The regex crate's \w (https://unicode.org/reports/tr18/#word).
// L, M and N bring code points that an older PCRE2 does not know; of N, Nl is alphabetic and No is
// out.
constexpr const char* kWord =
    R"((?!\p{No}|[\x{1d2c0}-\x{1d2d3}])[\p{Alphabetic}\p{L}\p{M}\p{N}\p{Pc}\p{Join_Control}])";

}  // namespace

AddedTokenMatcher::AddedTokenMatcher() { roots_.fill(-1); }

std::int32_t AddedTokenMatcher::child(std::int32_t node, unsigned char byte) const {
  auto next = nodes_[static_cast<std::size_t>(node)].child;
  while (next >= 0 && nodes_[static_cast<std::size_t>(next)].byte != byte) {
    next = nodes_[static_cast<std::size_t>(next)].sibling;
  }
  return next;
}

void AddedTokenMatcher::add(const AddedToken& token, std::string_view content) {
  if (content.empty()) return;
  const auto new_node = [this](char byte, std::int32_t sibling) {
    nodes_.push_back({static_cast<unsigned char>(byte), -1, -1, sibling});
    return static_cast<std::int32_t>(nodes_.size() - 1);
  };
  auto& root = roots_[static_cast<unsigned char>(content[0])];
  if (root < 0) root = new_node(content[0], -1);
  std::int32_t node = root;
  for (const char byte : content.substr(1)) {
    auto next = child(node, static_cast<unsigned char>(byte));
    if (next < 0) {
      next = new_node(byte, nodes_[static_cast<std::size_t>(node)].child);
      nodes_[static_cast<std::size_t>(node)].child = next;
    }
    node = next;
  }
  auto& holder = nodes_[static_cast<std::size_t>(node)].token;
  if (holder < 0) holder = static_cast<std::int32_t>(tokens_.size());
  tokens_.push_back(&token);
  if (token.single_word && !word_begins_) {
    word_begins_ = std::make_unique<SplitRegex>(std::string("\\A") + kWord, "single_word");
    word_ends_ = std::make_unique<SplitRegex>(std::string(kWord) + "\\z", "single_word");
  }
}

bool AddedTokenMatcher::find(std::string_view text, std::size_t from, Match& match) const {
  for (std::size_t begin = from; begin < text.size(); ++begin) {
    auto node = roots_[static_cast<unsigned char>(text[begin])];
    if (node < 0) continue;
    match.token = -1;
    for (std::size_t end = begin + 1; node >= 0; ++end) {
      const auto token = nodes_[static_cast<std::size_t>(node)].token;
      if (token >= 0) match = {token, begin, end};
      if (end == text.size()) break;
      node = child(node, static_cast<unsigned char>(text[end]));
    }
    if (match.token >= 0) return true;
  }
  return false;
}

bool AddedTokenMatcher::is_alone(std::string_view text, const Match& match,
                                 MatchBuffers& buffers) const {
  if (match.end < text.size() && word_begins_->matches(text.substr(match.end), buffers)) {
    return false;
  }
  std::size_t begin = match.begin;  // of the character before the token
  while (begin > 0 && (static_cast<unsigned char>(text[--begin]) & 0xC0) == 0x80) {
  }
  return match.begin == 0 || !word_ends_->matches(text.substr(begin, match.begin - begin), buffers);
}

std::vector<AddedTokenMatcher::Piece> AddedTokenMatcher::split(std::string_view text,
                                                               MatchBuffers& buffers) const {
  std::vector<Piece> pieces;
  std::size_t done = 0;  // text up to here stands in pieces
  Match match;
  for (std::size_t from = 0; find(text, from, match); from = match.end) {
    const AddedToken& token = *tokens_[static_cast<std::size_t>(match.token)];
    if (token.single_word && !is_alone(text, match, buffers)) continue;
    const std::size_t begin =
        token.lstrip ? std::max(done, begin_of_spaces(text, match.begin)) : match.begin;
    const std::size_t end = token.rstrip ? end_of_spaces(text, match.end) : match.end;
    if (begin > done) pieces.push_back({nullptr, text.substr(done, begin - done)});
    pieces.push_back({&token, text.substr(begin, end - std::min(begin, end))});
    // A token made of spaces may lie inside the spaces that the one before it took: it counts, and
    // the text goes on at its end, as in HF tokenizers.
    done = end;
  }
  if (done < text.size()) pieces.push_back({nullptr, text.substr(done)});
  return pieces;
}

}  // namespace tailor::models::text
