#include <ATen/ops/empty.h>

#include <algorithm>
#include <numeric>

#include "models/batch.hpp"

namespace tailor::models {

Batch pack(const std::vector<std::vector<std::int64_t>>& documents) {
  Batch batch;
  batch.document_offsets.push_back(0);
  for (const auto& ids : documents)
    batch.document_offsets.push_back(batch.document_offsets.back() +
                                     static_cast<std::int64_t>(ids.size()));
  batch.ids_T = at::empty({batch.num_tokens()}, at::kLong);
  batch.positions_T = at::empty({batch.num_tokens()}, at::kLong);
  auto* ids = batch.ids_T.mutable_data_ptr<std::int64_t>();
  auto* positions = batch.positions_T.mutable_data_ptr<std::int64_t>();
  for (const auto& document : documents) {
    ids = std::copy(document.begin(), document.end(), ids);
    std::iota(positions, positions + document.size(), std::int64_t{0});
    positions += document.size();
  }
  return batch;
}

}  // namespace tailor::models
