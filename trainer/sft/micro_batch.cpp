#include "trainer/sft/micro_batch.hpp"

namespace tailor::trainer {

std::vector<MicroBatch> cut(std::span<const Example* const> documents) {
  std::vector<MicroBatch> out;
  std::int64_t tokens = 0, in_batch = 0;
  for (const auto* document : documents) {
    const auto length = static_cast<std::int64_t>(document->ids.size());
    const bool full =
        in_batch >= kMicroBatchTokens || in_batch + length > kMicroBatchTokens * 3 / 2;
    if (out.empty() || full) {
      out.push_back({.documents = {}, .first_token = tokens});
      in_batch = 0;
    }
    out.back().documents.push_back(document);
    tokens += length;
    in_batch += length;
  }
  return out;
}

}  // namespace tailor::trainer
