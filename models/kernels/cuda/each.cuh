#pragma once

#include <algorithm>
#include <cstdint>

#include "models/kernels/cuda/launch.hpp"

namespace tailor::models::kernels::cuda {

template <class Work>
__global__ void each_kernel(std::int64_t count, Work work) {
  const auto step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (auto i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step)
    work(i);
}

/// work(i) for i of 0 ... count - 1, in no order.
template <class Work>
void each(std::int64_t count, Stream stream, const Work& work) {
  constexpr std::int64_t kBlock = 256, kMostBlocks = 1 << 16;
  if (count == 0) return;
  const auto blocks = std::min((count + kBlock - 1) / kBlock, kMostBlocks);
  each_kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(kBlock), 0, stream>>>(count,
                                                                                           work);
}

}  // namespace tailor::models::kernels::cuda
