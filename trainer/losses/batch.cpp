#include <ATen/ops/full.h>

#include <algorithm>

#include "trainer/losses/cross_entropy.hpp"

namespace tailor::trainer {

LabelledBatch make_batch(const std::vector<const Example*>& documents) {
  std::vector<std::vector<std::int64_t>> ids;
  for (const auto* document : documents) ids.push_back(document->ids);
  LabelledBatch batch{models::pack(ids), {}, 0};
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
