#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "models/text/split_regex.hpp"
#include "models/text/tokenizer.hpp"

namespace tailor::models::text {

/// Finds added tokens in a text as HF tokenizers does: leftmost, of those the longest, then the
/// rules of single_word, lstrip and rstrip.
class AddedTokenMatcher {
 public:
  struct Piece {
    const AddedToken* token;  // null for text between tokens
    std::string_view text;
  };

  AddedTokenMatcher();
  /// `token` must outlive the matcher. It is found where `content` stands.
  void add(const AddedToken& token, std::string_view content);
  bool empty() const { return tokens_.empty(); }
  std::vector<Piece> split(std::string_view text, MatchBuffers& buffers) const;

 private:
  struct Node {  // of a trie over bytes; children are a list of siblings
    unsigned char byte;
    std::int32_t token = -1, child = -1, sibling = -1;
  };
  struct Match {
    std::int32_t token;
    std::size_t begin, end;
  };
  std::int32_t child(std::int32_t node, unsigned char byte) const;
  bool find(std::string_view text, std::size_t from, Match& match) const;
  bool is_alone(std::string_view text, const Match& match, MatchBuffers& buffers) const;

  std::vector<const AddedToken*> tokens_;
  std::vector<Node> nodes_;
  std::array<std::int32_t, 256> roots_;  // node of a first byte, -1 where no token begins so
  std::unique_ptr<const SplitRegex> word_begins_, word_ends_;  // where a token has single_word
};

}  // namespace tailor::models::text
