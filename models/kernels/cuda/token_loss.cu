#include <c10/util/BFloat16.h>

#include "models/kernels/cuda/block_sum.cuh"
#include "models/kernels/cuda/element_maths.hpp"
#include "models/kernels/cuda/launch.hpp"

namespace tailor::models::kernels::cuda {
namespace {

using element::SoftmaxSum;

/// The block's numbers merged, on all its threads.
__device__ SoftmaxSum merged(SoftmaxSum own) {
  __shared__ float tops[kWarps], sums[kWarps];
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    SoftmaxSum other;
    other.top = __shfl_xor_sync(kAllLanes, own.top, offset);
    other.sum = __shfl_xor_sync(kAllLanes, own.sum, offset);
    own.merge(other);
  }
  if (threadIdx.x % kWarp == 0) {
    tops[threadIdx.x / kWarp] = own.top;
    sums[threadIdx.x / kWarp] = own.sum;
  }
  __syncthreads();
  SoftmaxSum all;
  for (int w = 0; w < kWarps; ++w) {
    SoftmaxSum other;
    other.top = tops[w];
    other.sum = sums[w];
    all.merge(other);
  }
  return all;
}

/// One block a row.
template <class T>
__global__ void loss_row(T* logits, const std::int64_t* target, bool gradient, float* loss,
                         bool* correct, std::int64_t size) {
  T* const row = logits + static_cast<std::int64_t>(blockIdx.x) * size;
  const auto wanted = target[blockIdx.x];
  const auto picked = static_cast<float>(row[wanted]);
  SoftmaxSum own;
  for (std::int64_t i = threadIdx.x; i < size; i += kThreads) own.add(static_cast<float>(row[i]));
  const auto all = merged(own);  // behind its barrier every thread has read `picked`
  const float log_sum = all.log_sum();
  if (threadIdx.x == 0) {
    loss[blockIdx.x] = log_sum - picked;
    correct[blockIdx.x] = picked >= all.top;
  }
  if (!gradient) return;
  for (std::int64_t i = threadIdx.x; i < size; i += kThreads)
    row[i] =
        static_cast<T>(expf(static_cast<float>(row[i]) - log_sum) - (i == wanted ? 1.0F : 0.0F));
}

}  // namespace

template <class T>
void token_loss(T* logits, const std::int64_t* target, bool gradient, float* loss, bool* correct,
                std::int64_t rows, std::int64_t size, Stream stream) {
  if (rows == 0) return;
  loss_row<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(logits, target, gradient, loss,
                                                                 correct, size);
}

template void token_loss(float*, const std::int64_t*, bool, float*, bool*, std::int64_t,
                         std::int64_t, Stream);
template void token_loss(c10::BFloat16*, const std::int64_t*, bool, float*, bool*, std::int64_t,
                         std::int64_t, Stream);

}  // namespace tailor::models::kernels::cuda
