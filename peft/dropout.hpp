#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "peft/dropout_mask.hpp"

namespace tailor::peft {

/// Which features of which tokens a layer drops: a pure function of seed, stream, token and
/// feature, so that backward draws the mask again instead of keeping it, and cutting a step into
/// other micro-batches drops the same entries.
struct Dropout {
  double p = 0.0;  // probability of a zero, in [0, 1)
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;      // one for every step and layer
  std::int64_t first_token = 0;  // number of row 0 within the step
  /// Where x holds a part of a layer's features: number of its first among all of them. 0: all.
  std::int64_t first_feature = 0, num_features = 0;
};

/// Zeroes what is dropped in x (T, I), contiguous, float32, float64 or bfloat16. What stays is not
/// scaled: callers multiply by 1 / (1 - p) where that costs nothing and rounds nothing.
void drop_(at::Tensor& x_TI, const Dropout& dropout);

DropoutMask mask_of(const Dropout& dropout, std::int64_t width);

/// The same for a tensor outside host memory. One of two files answers: drop_from_host.cpp, which
/// draws in host memory and copies, or cuda/drop.cpp.
void drop_on_device_(at::Tensor& x_TI, const Dropout& dropout);

}  // namespace tailor::peft
