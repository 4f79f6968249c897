#include "models/layers/kv_cache.hpp"

#include <ATen/ops/empty.h>

namespace tailor::models {

KvCache::KvCache(std::int64_t num_layers, std::int64_t num_key_value_heads, std::int64_t head_dim,
                 at::ScalarType dtype, std::int64_t num_slots, std::int64_t capacity)
    : num_slots_(num_slots), capacity_(capacity) {
  for (std::int64_t layer = 0; layer < num_layers; ++layer) {
    keys_SCKH_.push_back(at::empty({num_slots, capacity, num_key_value_heads, head_dim}, dtype));
    values_SCKH_.push_back(at::empty({num_slots, capacity, num_key_value_heads, head_dim}, dtype));
  }
}

at::Tensor KvCache::keys(std::int64_t layer, std::int64_t slot) const {
  return keys_SCKH_[static_cast<std::size_t>(layer)].select(0, slot);
}

at::Tensor KvCache::values(std::int64_t layer, std::int64_t slot) const {
  return values_SCKH_[static_cast<std::size_t>(layer)].select(0, slot);
}

}  // namespace tailor::models
