#pragma once

#include <cstdint>

struct CUstream_st;

/// Kernels over raw memory of one GPU, enqueued on `stream`; on_device.cpp has checked shapes. T is
/// float or c10::BFloat16, rows lie one behind the other, arithmetic is float32. Contracts as those
/// of the functions of the same name in models/kernels/*.hpp.
namespace tailor::models::kernels::cuda {

using Stream = CUstream_st*;

/// `rows` of `size`. delta null: absent, then h is not written.
template <class T>
void rms_norm(const T* x, const T* delta, const float* weight, float eps, T* h, T* y, float* rstd,
              std::int64_t rows, std::int64_t size, Stream stream);
/// dh null: absent.
template <class T>
void rms_norm_backward(const T* dy, const T* dh, const T* h, const float* weight, const float* rstd,
                       T* dx, std::int64_t rows, std::int64_t size, Stream stream);

/// Tokens of x are `stride` apart, those of y one behind the other; `sign` is -1 for the inverse.
template <class T>
void rotate(const T* x, std::int64_t stride, const float* cos, const float* sin, float sign, T* y,
            std::int64_t tokens, std::int64_t heads, std::int64_t half, Stream stream);

template <class T>
void swiglu(const T* gate, const T* up, T* y, std::int64_t size, Stream stream);
template <class T>
void swiglu_backward(const T* dy, const T* gate, const T* up, T* dgate, T* dup, std::int64_t size,
                     Stream stream);

/// Slot i is slot i % slots of token i / slots, and lies in row row_of[i], -1: in none.
struct Slots {
  const std::int64_t* row_of;
  std::int64_t tokens, slots;
};
template <class T>
void copy_tokens(const T* x, const Slots& slots, T* copies, std::int64_t size, Stream stream);
/// weights null: 1.
template <class T>
void sum_copies(const T* rows, const Slots& slots, const float* weights, T* y, std::int64_t size,
                Stream stream);
template <class T>
void sum_copies_backward(const T* dy, const T* rows, const Slots& slots, const float* weights,
                         T* drows, float* dweights, std::int64_t size, Stream stream);

template <class T>
void token_loss(T* logits, const std::int64_t* target, bool gradient, float* loss, bool* correct,
                std::int64_t rows, std::int64_t size, Stream stream);

}  // namespace tailor::models::kernels::cuda
