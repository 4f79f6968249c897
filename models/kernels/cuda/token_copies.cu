#include <c10/util/BFloat16.h>

#include "models/kernels/cuda/block_sum.cuh"
#include "models/kernels/cuda/each.cuh"

namespace tailor::models::kernels::cuda {
namespace {

/// One block a slot: drow = weight dy, dweight = dy . row.
template <class T>
__global__ void scale_and_dot(const T* dy, const T* rows, Slots slots, const float* weights,
                              T* drows, float* dweights, std::int64_t size) {
  const std::int64_t slot = blockIdx.x;
  if (slots.row_of[slot] < 0) {
    if (threadIdx.x == 0) dweights[slot] = 0.0F;
    return;
  }
  const T* const from = dy + slot / slots.slots * size;
  const auto row = slots.row_of[slot] * size;
  const float weight = weights[slot];
  float dot = 0.0F;
  for (std::int64_t i = threadIdx.x; i < size; i += kThreads) {
    const auto value = static_cast<float>(from[i]);
    dot += value * static_cast<float>(rows[row + i]);
    drows[row + i] = static_cast<T>(value * weight);
  }
  dot = block_sum(dot);
  if (threadIdx.x == 0) dweights[slot] = dot;
}

}  // namespace

template <class T>
void copy_tokens(const T* x, const Slots& slots, T* copies, std::int64_t size, Stream stream) {
  each(slots.tokens * slots.slots * size, stream, [=] __device__(std::int64_t at) {
    const auto slot = at / size, i = at % size;
    if (slots.row_of[slot] >= 0)
      copies[slots.row_of[slot] * size + i] = x[slot / slots.slots * size + i];
  });
}

template <class T>
void sum_copies(const T* rows, const Slots& slots, const float* weights, T* y, std::int64_t size,
                Stream stream) {
  each(slots.tokens * size, stream, [=] __device__(std::int64_t at) {
    const auto token = at / size, i = at % size;
    float sum = 0.0F;
    for (auto slot = token * slots.slots; slot < (token + 1) * slots.slots; ++slot) {
      if (slots.row_of[slot] < 0) continue;
      const float weight = weights == nullptr ? 1.0F : weights[slot];
      sum += weight * static_cast<float>(rows[slots.row_of[slot] * size + i]);
    }
    y[at] = static_cast<T>(sum);
  });
}

template <class T>
void sum_copies_backward(const T* dy, const T* rows, const Slots& slots, const float* weights,
                         T* drows, float* dweights, std::int64_t size, Stream stream) {
  if (slots.tokens * slots.slots == 0) return;
  scale_and_dot<<<static_cast<unsigned>(slots.tokens * slots.slots), kThreads, 0, stream>>>(
      dy, rows, slots, weights, drows, dweights, size);
}

using c10::BFloat16;
template void copy_tokens(const float*, const Slots&, float*, std::int64_t, Stream);
template void copy_tokens(const BFloat16*, const Slots&, BFloat16*, std::int64_t, Stream);
template void sum_copies(const float*, const Slots&, const float*, float*, std::int64_t, Stream);
template void sum_copies(const BFloat16*, const Slots&, const float*, BFloat16*, std::int64_t,
                         Stream);
template void sum_copies_backward(const float*, const float*, const Slots&, const float*, float*,
                                  float*, std::int64_t, Stream);
template void sum_copies_backward(const BFloat16*, const BFloat16*, const Slots&, const float*,
                                  BFloat16*, float*, std::int64_t, Stream);

}  // namespace tailor::models::kernels::cuda
