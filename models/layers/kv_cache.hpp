#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace tailor::models {

/// Keys and values of sequences being decoded: a value that callers own and pass in Batch. One slot
/// a sequence; slots are reused.
class KvCache {
 public:
  /// `dtype` is the activations' dtype; `capacity` is tokens a slot. Memory is touched, and so
  /// really taken, only as far as sequences grow.
  KvCache(std::int64_t num_layers, std::int64_t num_key_value_heads, std::int64_t head_dim,
          at::ScalarType dtype, std::int64_t num_slots, std::int64_t capacity);

  std::int64_t num_slots() const { return num_slots_; }
  std::int64_t capacity() const { return capacity_; }
  /// (capacity, K, H) of one layer and slot: views to write to and read from.
  at::Tensor keys(std::int64_t layer, std::int64_t slot) const;
  at::Tensor values(std::int64_t layer, std::int64_t slot) const;

 private:
  std::int64_t num_slots_, capacity_;
  std::vector<at::Tensor> keys_SCKH_, values_SCKH_;  // one a layer
};

}  // namespace tailor::models
