#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace tailor::models::text {

/// Ids of words met before. A word has one place, where it displaces another; so memory is bounded.
class WordCache {
 public:
  struct Entry {
    std::string word;
    std::vector<std::int64_t> ids;
  };
  static constexpr std::size_t kMaxWordBytes = 64;

  /// The place of `word`, not empty and at most kMaxWordBytes long; it holds `word` or another.
  Entry& place(std::string_view word) {
    if (entries_.empty()) entries_.resize(kNumEntries);
    return entries_[std::hash<std::string_view>{}(word) % kNumEntries];
  }

 private:
  static constexpr std::size_t kNumEntries = 1 << 15;
  std::vector<Entry> entries_;
};

}  // namespace tailor::models::text
