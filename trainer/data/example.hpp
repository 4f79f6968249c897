#pragma once

#include <cstdint>
#include <vector>

namespace tailor::trainer {

constexpr std::int64_t kIgnore = -100;  // label of a token that is not trained on, as in HF

/// One tokenised row. labels[t] is ids[t] where that token is supervised, else kIgnore: unshifted,
/// as in HF. The first token of a document is never predicted.
struct Example {
  std::vector<std::int64_t> ids, labels;

  std::int64_t num_supervised() const {  // targets: labels from the second on
    std::int64_t n = 0;
    for (std::size_t t = 1; t < labels.size(); ++t) n += labels[t] != kIgnore ? 1 : 0;
    return n;
  }
};

}  // namespace tailor::trainer
