#include <c10/util/BFloat16.h>

#include "models/kernels/cuda/block_sum.cuh"
#include "models/kernels/cuda/launch.hpp"

namespace tailor::models::kernels::cuda {
namespace {

template <class T>
__global__ void forward_row(const T* x, const T* delta, const float* weight, float eps, T* h, T* y,
                            float* rstd, std::int64_t size) {
  const auto first = static_cast<std::int64_t>(blockIdx.x) * size;
  float squares = 0.0F;
  for (std::int64_t i = threadIdx.x; i < size; i += kThreads) {
    if (delta != nullptr)
      h[first + i] =
          static_cast<T>(static_cast<float>(x[first + i]) + static_cast<float>(delta[first + i]));
    const auto value = static_cast<float>(delta != nullptr ? h[first + i] : x[first + i]);
    squares += value * value;
  }
  const float r = 1.0F / sqrtf(block_sum(squares) / static_cast<float>(size) + eps);
  const T* const row = delta != nullptr ? h : x;  // a thread reads what it wrote itself
  for (std::int64_t i = threadIdx.x; i < size; i += kThreads)
    y[first + i] = static_cast<T>(static_cast<float>(row[first + i]) * r * weight[i]);
  if (threadIdx.x == 0) rstd[blockIdx.x] = r;
}

template <class T>
__global__ void backward_row(const T* dy, const T* dh, const T* h, const float* weight,
                             const float* rstd, T* dx, std::int64_t size) {
  const auto first = static_cast<std::int64_t>(blockIdx.x) * size;
  float dots = 0.0F;
  for (std::int64_t i = threadIdx.x; i < size; i += kThreads)
    dots += weight[i] * static_cast<float>(dy[first + i]) * static_cast<float>(h[first + i]);
  const float r = rstd[blockIdx.x];
  const float c = r * r * (block_sum(dots) / static_cast<float>(size));
  for (std::int64_t i = threadIdx.x; i < size; i += kThreads) {
    float value =
        r * (weight[i] * static_cast<float>(dy[first + i]) - static_cast<float>(h[first + i]) * c);
    if (dh != nullptr) value += static_cast<float>(dh[first + i]);
    dx[first + i] = static_cast<T>(value);
  }
}

}  // namespace

template <class T>
void rms_norm(const T* x, const T* delta, const float* weight, float eps, T* h, T* y, float* rstd,
              std::int64_t rows, std::int64_t size, Stream stream) {
  if (rows == 0) return;
  forward_row<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(x, delta, weight, eps, h, y,
                                                                    rstd, size);
}

template <class T>
void rms_norm_backward(const T* dy, const T* dh, const T* h, const float* weight, const float* rstd,
                       T* dx, std::int64_t rows, std::int64_t size, Stream stream) {
  if (rows == 0) return;
  backward_row<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(dy, dh, h, weight, rstd, dx,
                                                                     size);
}

template void rms_norm(const float*, const float*, const float*, float, float*, float*, float*,
                       std::int64_t, std::int64_t, Stream);
template void rms_norm(const c10::BFloat16*, const c10::BFloat16*, const float*, float,
                       c10::BFloat16*, c10::BFloat16*, float*, std::int64_t, std::int64_t, Stream);
template void rms_norm_backward(const float*, const float*, const float*, const float*,
                                const float*, float*, std::int64_t, std::int64_t, Stream);
template void rms_norm_backward(const c10::BFloat16*, const c10::BFloat16*, const c10::BFloat16*,
                                const float*, const float*, c10::BFloat16*, std::int64_t,
                                std::int64_t, Stream);

}  // namespace tailor::models::kernels::cuda
