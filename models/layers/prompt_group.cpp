#include "models/prompt_group.hpp"

#include <utility>

namespace tailor::models {

Batch pack_with_prefixes(std::span<const PromptGroup> groups, std::int64_t multiple) {
  std::vector<std::vector<std::int64_t>> documents;
  std::vector<std::int64_t> prefix_of;
  std::int64_t num_tokens = 0;
  const auto add = [&](const std::vector<std::int64_t>& ids, std::int64_t prefix) {
    documents.push_back(ids);
    prefix_of.push_back(prefix);
    num_tokens += static_cast<std::int64_t>(ids.size());
  };
  for (const auto& group : groups) {
    const auto prompt = static_cast<std::int64_t>(documents.size());
    add(group.prompt, -1);
    for (const auto& completion : group.completions) add(completion, prompt);
  }
  if (const auto over = num_tokens % multiple; over > 0)
    add(std::vector<std::int64_t>(static_cast<std::size_t>(multiple - over)), -1);

  auto batch = pack(documents);
  auto* positions = batch.positions_T.mutable_data_ptr<std::int64_t>();
  for (std::size_t d = 0; d < documents.size(); ++d) {
    if (prefix_of[d] < 0) continue;
    const auto shift = documents[static_cast<std::size_t>(prefix_of[d])].size();
    for (auto t = batch.document_offsets[d]; t < batch.document_offsets[d + 1]; ++t)
      positions[t] += static_cast<std::int64_t>(shift);
  }
  batch.prefix_of = std::move(prefix_of);
  return batch;
}

}  // namespace tailor::models
