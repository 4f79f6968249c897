#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "models/families/causal_lm.hpp"

namespace tailor::models {

/// Keys and values of sequences being decoded: a value that callers own and pass in Batch. One slot a
/// sequence; slots are reused. Grows by whole slots' capacity, never moves during a forward.
class KvCache {
 public:
  /// `dtype` is activation_dtype of the model.
  KvCache(const ModelShape& shape, at::ScalarType dtype, std::int64_t num_slots,
          std::int64_t capacity);

  std::int64_t num_slots() const { return num_slots_; }
  std::int64_t capacity() const { return capacity_; }  // tokens a slot
  /// (capacity, K, H) of one layer and slot: views to write to and read from.
  at::Tensor keys(std::int64_t layer, std::int64_t slot) const;
  at::Tensor values(std::int64_t layer, std::int64_t slot) const;
  std::int64_t num_bytes() const;

 private:
  std::int64_t num_slots_, capacity_;
  std::vector<at::Tensor> keys_SCKH_, values_SCKH_;  // one a layer
};

}  // namespace tailor::models
