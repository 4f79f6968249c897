#pragma once

#include <cstdint>

namespace tailor::models {

/// Brings the frozen weights of decoder layers into memory for as long as they are used, where they
/// lie elsewhere. A layer is used from acquire() to release(), in forward and again in backward, in
/// the other order.
class LayerResidency {
 public:
  enum class Direction { Forward, Backward };
  virtual ~LayerResidency() = default;
  virtual void acquire(std::int64_t layer, Direction direction) = 0;
  virtual void release(std::int64_t layer) = 0;
};

}  // namespace tailor::models
