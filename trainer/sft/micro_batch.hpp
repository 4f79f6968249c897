#pragma once

#include <span>
#include <vector>

#include "trainer/data/example.hpp"

namespace tailor::trainer {

/// Documents computed together.
struct MicroBatch {
  std::vector<const Example*> documents;
  std::int64_t first_token = 0;  // tokens of the step before it: the dropout counter's offset
};

/// A batch of this many tokens keeps the processor's matrix units busy; a larger one only takes
/// more memory and falls out of cache.
constexpr std::int64_t kMicroBatchTokens = 512;

/// Cuts documents, in order, into micro-batches of about kMicroBatchTokens: one is closed when it
/// has so many, and never grows beyond 1.5 times that by a further document. Documents do not see
/// each other and the loss is a sum over tokens, so the cut changes no result but by rounding; it
/// is a function of the lengths alone.
std::vector<MicroBatch> cut(std::span<const Example* const> documents);

}  // namespace tailor::trainer
