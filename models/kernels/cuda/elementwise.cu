#include <c10/util/BFloat16.h>

#include "models/kernels/cuda/each.cuh"
#include "models/kernels/cuda/element_maths.hpp"

namespace tailor::models::kernels::cuda {

template <class T>
void rotate(const T* x, std::int64_t stride, const float* cos, const float* sin, float sign, T* y,
            std::int64_t tokens, std::int64_t heads, std::int64_t half, Stream stream) {
  each(tokens * heads * half, stream, [=] __device__(std::int64_t at) {
    const auto i = at % half, head = at / half % heads, token = at / (half * heads);
    const T* const from = x + token * stride + 2 * half * head + i;
    T* const to = y + 2 * half * (token * heads + head) + i;
    const auto out = element::turned({static_cast<float>(from[0]), static_cast<float>(from[half])},
                                     cos[token * half + i], sign * sin[token * half + i]);
    to[0] = static_cast<T>(out.a);
    to[half] = static_cast<T>(out.b);
  });
}

template <class T>
void swiglu(const T* gate, const T* up, T* y, std::int64_t size, Stream stream) {
  each(size, stream, [=] __device__(std::int64_t i) {
    y[i] = static_cast<T>(element::swiglu(static_cast<float>(gate[i]), static_cast<float>(up[i])));
  });
}

template <class T>
void swiglu_backward(const T* dy, const T* gate, const T* up, T* dgate, T* dup, std::int64_t size,
                     Stream stream) {
  each(size, stream, [=] __device__(std::int64_t i) {
    const auto d = element::swiglu_gradient(static_cast<float>(dy[i]), static_cast<float>(gate[i]),
                                            static_cast<float>(up[i]));
    dgate[i] = static_cast<T>(d.gate);
    dup[i] = static_cast<T>(d.up);
  });
}

using c10::BFloat16;
template void rotate(const float*, std::int64_t, const float*, const float*, float, float*,
                     std::int64_t, std::int64_t, std::int64_t, Stream);
template void rotate(const BFloat16*, std::int64_t, const float*, const float*, float, BFloat16*,
                     std::int64_t, std::int64_t, std::int64_t, Stream);
template void swiglu(const float*, const float*, float*, std::int64_t, Stream);
template void swiglu(const BFloat16*, const BFloat16*, BFloat16*, std::int64_t, Stream);
template void swiglu_backward(const float*, const float*, const float*, float*, float*,
                              std::int64_t, Stream);
template void swiglu_backward(const BFloat16*, const BFloat16*, const BFloat16*, BFloat16*,
                              BFloat16*, std::int64_t, Stream);

}  // namespace tailor::models::kernels::cuda
