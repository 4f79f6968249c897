#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "models/batch.hpp"

namespace tailor::models {

/// Token ids of a prompt and of what continues it, each from the prompt's end on.
struct PromptGroup {
  std::vector<std::int64_t> prompt;
  std::vector<std::vector<std::int64_t>> completions;
};

/// Packs every prompt once, its completions behind it as documents that see it: their positions go
/// on from the prompt's length, and prefix_of names the prompt's document. Filled up to a multiple
/// of `multiple` tokens by a last document of zeros that stands alone. The prompt's last row
/// predicts the first token of all its completions; a caller that wants one target a row leaves
/// the prompt's last token out of `prompt` and begins every completion with it.
Batch pack_with_prefixes(std::span<const PromptGroup> groups, std::int64_t multiple = 1);

}  // namespace tailor::models
