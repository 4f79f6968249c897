#include "models/text/bpe.hpp"

#include <algorithm>
#include <functional>

#include "models/files/file_error.hpp"
#include "models/text/byte_alphabet.hpp"

namespace tailor::models::text {
namespace {

// At most half of the slots are taken, so that searches are short.
std::size_t num_slots(std::size_t num_entries) {
  std::size_t slots = 16;
  while (slots < 2 * num_entries) slots *= 2;
  return slots;
}

std::uint64_t pair_of(std::int32_t left, std::int32_t right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

bool is_later(const Bpe::Scratch::Candidate& a, const Bpe::Scratch::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

}  // namespace

VocabularyIndex::VocabularyIndex(const std::vector<std::string>& vocab)
    : vocab_(vocab), slots_(num_slots(vocab.size()), -1) {
  for (std::size_t id = 0; id < vocab.size(); ++id) {
    if (!vocab[id].empty()) slots_[slot_of(vocab[id])] = static_cast<std::int32_t>(id);
  }
}

std::size_t VocabularyIndex::slot_of(std::string_view text) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t slot = std::hash<std::string_view>{}(text)&mask;
  while (slots_[slot] >= 0 && vocab_[static_cast<std::size_t>(slots_[slot])] != text) {
    slot = (slot + 1) & mask;
  }
  return slot;
}

std::optional<std::int32_t> VocabularyIndex::find(std::string_view text) const {
  const auto id = slots_[slot_of(text)];
  return id < 0 ? std::nullopt : std::optional(id);
}

Bpe::Bpe(const TokenizerSpec& spec, const VocabularyIndex& index, const std::string& file)
    : index_(index),
      ignore_merges_(spec.ignore_merges),
      byte_ids_(256),
      merges_(num_slots(spec.merges.size())) {
  for (std::size_t byte = 0; byte < 256; ++byte) {
    byte_ids_[byte] = index.find(byte_symbol(static_cast<unsigned char>(byte))).value_or(-1);
  }
  std::string text;
  for (std::size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const auto& [left, right] = spec.merges[rank];
    text.assign(left).append(right);
    const auto id = [&](const std::string& token) {
      if (const auto found = index.find(token)) return *found;
      throw FileError(file + ": merge " + std::to_string(rank) + " '" + left + " " + right +
                      "': token '" + token + "' is not in the vocabulary");
    };
    const std::uint64_t pair = pair_of(id(left), id(right));
    // A pair that stands twice has its last rank.
    merges_[slot_of(pair)] = {pair, static_cast<std::uint32_t>(rank), id(text)};
  }
}

std::size_t Bpe::slot_of(std::uint64_t pair) const {
  const std::size_t mask = merges_.size() - 1;
  std::size_t slot = (pair * 0x9E3779B97F4A7C15u >> 32) & mask;  // Fibonacci hashing
  while (merges_[slot].pair != pair && merges_[slot].pair != kNoPair) slot = (slot + 1) & mask;
  return slot;
}

void Bpe::consider(std::int32_t position, Scratch& scratch) const {
  if (position < 0) return;
  const auto& left = scratch.symbols[static_cast<std::size_t>(position)];
  if (left.next < 0) return;
  const auto right = scratch.symbols[static_cast<std::size_t>(left.next)].id;
  const Merge& merge = merges_[slot_of(pair_of(left.id, right))];
  if (merge.pair == kNoPair) return;
  scratch.heap.push_back({merge.rank, position, left.id, right, merge.merged});
  std::push_heap(scratch.heap.begin(), scratch.heap.end(), is_later);
}

void Bpe::merge_all(Scratch& scratch) const {
  auto& [symbols, heap, text] = scratch;
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), is_later);
    const auto best = heap.back();
    heap.pop_back();
    auto& left = symbols[static_cast<std::size_t>(best.position)];
    if (left.id != best.left || left.next < 0) continue;  // merged meanwhile
    auto& right = symbols[static_cast<std::size_t>(left.next)];
    if (right.id != best.right) continue;
    left.id = best.merged;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = best.position;
    consider(left.previous, scratch);
    consider(best.position, scratch);
  }
}

void Bpe::encode(std::string_view word, Scratch& scratch, std::vector<std::int64_t>& ids) const {
  auto& [symbols, heap, text] = scratch;
  if (ignore_merges_) {
    text.clear();
    append_byte_symbols(word, text);
    if (const auto id = index_.find(text)) {
      ids.push_back(*id);
      return;
    }
  }
  symbols.clear();
  for (const char byte : word) {
    const auto id = byte_ids_[static_cast<unsigned char>(byte)];
    const auto position = static_cast<std::int32_t>(symbols.size());
    if (id >= 0) symbols.push_back({id, position - 1, position + 1});
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;
  for (std::size_t position = 0; position + 1 < symbols.size(); ++position) {
    consider(static_cast<std::int32_t>(position), scratch);
  }
  merge_all(scratch);
  for (std::int32_t at = 0; at >= 0; at = symbols[static_cast<std::size_t>(at)].next) {
    ids.push_back(symbols[static_cast<std::size_t>(at)].id);
  }
}

}  // namespace tailor::models::text
