#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "models/text/tokenizer.hpp"

namespace tailor::models::text {

/// Ids of a vocabulary's texts. Of equal texts the last id counts. Keeps a reference.
class VocabularyIndex {
 public:
  explicit VocabularyIndex(const std::vector<std::string>& vocab);
  std::optional<std::int32_t> find(std::string_view text) const;

 private:
  std::size_t slot_of(std::string_view text) const;

  const std::vector<std::string>& vocab_;
  std::vector<std::int32_t> slots_;  // a hash table with open addressing; -1 is free
};

/// Byte pair encoding of words (Sennrich et al. 2016): of all neighbouring symbols the pair of the
/// lowest rank, leftmost first, becomes one symbol, until none is left. O(n log n) in the length.
class Bpe {
 public:
  struct Scratch {  // of one thread
    struct Symbol {
      std::int32_t id, previous, next;
    };
    struct Candidate {
      std::uint32_t rank;
      std::int32_t position, left, right, merged;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
    std::string text;
  };

  /// Throws models::FileError, beginning with `file`, for a merge of unknown tokens.
  Bpe(const TokenizerSpec& spec, const VocabularyIndex& index, const std::string& file);

  /// Appends the ids of `word` (any bytes). A byte without a token has no id, as in HF tokenizers.
  void encode(std::string_view word, Scratch& scratch, std::vector<std::int64_t>& ids) const;

 private:
  struct Merge {
    std::uint64_t pair = kNoPair;
    std::uint32_t rank = 0;
    std::int32_t merged = 0;
  };
  static constexpr std::uint64_t kNoPair = ~std::uint64_t{0};

  std::size_t slot_of(std::uint64_t pair) const;
  void consider(std::int32_t left_position, Scratch& scratch) const;
  void merge_all(Scratch& scratch) const;

  const VocabularyIndex& index_;
  bool ignore_merges_;
  std::vector<std::int32_t> byte_ids_;  // -1 where the vocabulary lacks the byte
  std::vector<Merge> merges_;           // a hash table with open addressing
};

}  // namespace tailor::models::text
