#include <algorithm>
#include <cctype>
#include <cstddef>
#include <numeric>
#include <string_view>

#include "configs/reader.hpp"

namespace tailor::configs {
namespace {

/// Number of inserted, dropped, changed or swapped characters between two words.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<std::size_t>> d(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  std::iota(d[0].begin(), d[0].end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    for (std::size_t j = 1; j <= b.size(); ++j) {
      d[i][j] =
          std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  }
  return d[a.size()][b.size()];
}

std::string plain(std::string_view word) {
  std::string out(word);
  std::ranges::transform(out, out.begin(), [](unsigned char c) {
    return c == '-' ? '_' : static_cast<char>(std::tolower(c));
  });
  return out;
}

}  // namespace

std::string nearest(const std::string& word, const std::vector<std::string>& candidates) {
  constexpr std::size_t kMaxLength = 200;  // nobody mistypes more, and the table is quadratic
  constexpr std::size_t kMinPart = 4;      // shorter parts of a name say too little
  if (word.empty() || word.size() > kMaxLength) return "";
  const auto wanted = plain(word);
  const std::string *best = nullptr, *part = nullptr;
  auto best_distance = wanted.size() + kMaxLength;
  std::size_t num_parts = 0;
  for (const auto& candidate : candidates) {
    if (candidate.size() > kMaxLength) continue;
    const auto known = plain(candidate);
    const auto edits = distance(wanted, known);
    if (edits * 3 <= std::max(wanted.size(), known.size()) && edits < best_distance) {
      best = &candidate;
      best_distance = edits;
    }
    const bool contains = known.find(wanted) != std::string::npos && wanted.size() >= kMinPart;
    const bool contained = wanted.find(known) != std::string::npos && known.size() >= kMinPart;
    if (contains || contained) {
      part = &candidate;
      ++num_parts;
    }
  }
  if (best != nullptr) return *best;
  return num_parts == 1 ? *part : "";
}

}  // namespace tailor::configs
