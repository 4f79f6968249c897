#include "trainer/sft/micro_batch.hpp"

namespace tailor::trainer {

std::vector<MicroBatch> cut(std::span<const Example* const> documents, std::int64_t num_tokens) {
  std::vector<MicroBatch> out;
  std::int64_t tokens = 0, in_batch = 0;
  for (const auto* document : documents) {
    const auto length = static_cast<std::int64_t>(document->ids.size());
    if (out.empty() || in_batch + length > num_tokens) {
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
