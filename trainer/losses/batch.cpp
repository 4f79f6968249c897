#include <ATen/ops/full.h>

#include <algorithm>

#include "trainer/losses/cross_entropy.hpp"

namespace tailor::trainer {

LabelledBatch make_batch(const std::vector<const Example*>& documents, std::int64_t multiple) {
  std::vector<std::vector<std::int64_t>> ids;
  std::size_t tokens = 0;
  for (const auto* document : documents) {
    ids.push_back(document->ids);
    tokens += document->ids.size();
  }
  const auto over = tokens % static_cast<std::size_t>(multiple);
  if (over > 0) ids.emplace_back(static_cast<std::size_t>(multiple) - over, std::int64_t{0});
  LabelledBatch batch{models::pack(ids), {}, 0, 0};
  batch.num_filling = batch.num_tokens() - static_cast<std::int64_t>(tokens);
  batch.targets_T = at::full({batch.num_tokens()}, kIgnore, at::kLong);
  auto* target = batch.targets_T.mutable_data_ptr<std::int64_t>();
  for (const auto* document : documents) {
    if (!document->labels.empty())
      std::copy(document->labels.begin() + 1, document->labels.end(), target);
    target += document->labels.size();
    batch.num_supervised += document->num_supervised();
  }
  return batch;
}

}  // namespace tailor::trainer
