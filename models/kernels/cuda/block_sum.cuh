#pragma once

namespace tailor::models::kernels::cuda {

constexpr int kThreads = 256;  // of a block, one block a row
constexpr int kWarp = 32, kWarps = kThreads / kWarp;
constexpr unsigned kAllLanes = 0xFFFFFFFFU;

/// The sum over the block, on all its threads. Every thread calls it; order and bits are fixed.
__device__ inline float block_sum(float value) {
  __shared__ float of_warp[kWarps];
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    value += __shfl_xor_sync(kAllLanes, value, offset);
  __syncthreads();  // the last call's sums are read
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
  __syncthreads();
  float sum = 0.0F;
  for (int w = 0; w < kWarps; ++w) sum += of_warp[w];
  return sum;
}

}  // namespace tailor::models::kernels::cuda
