#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace tailor::models {

/// Where draws come from: entry i is draw i of `stream` (models/kernels/random.hpp).
struct RandomStream {
  std::uint64_t seed, stream;
};

/// Float32 entries of N(0, deviation^2), the same for any number of threads.
at::Tensor normal_tensor(const std::vector<std::int64_t>& shape, double deviation,
                         RandomStream random);

}  // namespace tailor::models
