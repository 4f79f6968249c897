#include "models/kernels/row_products.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "models/kernels/row_products.cpp"
#include <hwy/foreach_target.h>
// after foreach_target
#include "models/kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace tailor::models::kernels::HWY_NAMESPACE {

/// Two sums side by side: one alone would wait for its own result at every step.
template <class T>
float dot(const T* x, const float* a, std::int64_t size) {
  const Floats d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto even = hn::Zero(d), odd = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + 2 * lanes <= size; i += 2 * lanes) {
    even = hn::MulAdd(load(d, x + i), hn::LoadU(d, a + i), even);
    odd = hn::MulAdd(load(d, x + i + lanes), hn::LoadU(d, a + i + lanes), odd);
  }
  float rest = 0.0F;
  for (; i < size; ++i) rest += static_cast<float>(x[i]) * a[i];
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd))) + rest;
}

template <class T>
void dots(std::int64_t rows, std::int64_t size, float alpha, const T* x, std::int64_t ldx,
          const float* a, float* h, std::int64_t ldh) {
  for (std::int64_t m = 0; m < rows; ++m) h[m * ldh] = alpha * dot(x + m * ldx, a, size);
}

template <class T>
void add(std::int64_t rows, std::int64_t size, float alpha, const float* h, std::int64_t ldh,
         const float* b, T* y, std::int64_t ldy) {
  const Floats d;
  for (std::int64_t m = 0; m < rows; ++m) {
    const auto factor = alpha * h[m * ldh];
    const auto factors = hn::Set(d, factor);
    auto* const row = y + m * ldy;
    for_row(
        d, size,
        [&](std::int64_t i) {
          store(d, hn::MulAdd(factors, hn::LoadU(d, b + i), load(d, row + i)), row + i);
        },
        [&](std::int64_t i) {
          row[i] = static_cast<T>(static_cast<float>(row[i]) + factor * b[i]);
        });
  }
}

/// Columns outside, so that their sums stay in registers while the rows go by.
template <class T>
void sum(std::int64_t rows, std::int64_t size, float alpha, const float* h, std::int64_t ldh,
         const T* x, std::int64_t ldx, float* c) {
  const Floats d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + 2 * lanes <= size; i += 2 * lanes) {
    auto left = hn::Zero(d), right = hn::Zero(d);
    for (std::int64_t m = 0; m < rows; ++m) {
      const auto factors = hn::Set(d, h[m * ldh]);
      left = hn::MulAdd(factors, load(d, x + m * ldx + i), left);
      right = hn::MulAdd(factors, load(d, x + m * ldx + i + lanes), right);
    }
    const auto scale = hn::Set(d, alpha);
    store(d, hn::MulAdd(scale, left, hn::LoadU(d, c + i)), c + i);
    store(d, hn::MulAdd(scale, right, hn::LoadU(d, c + i + lanes)), c + i + lanes);
  }
  for (; i < size; ++i) {
    float total = 0.0F;
    for (std::int64_t m = 0; m < rows; ++m)
      total += h[m * ldh] * static_cast<float>(x[m * ldx + i]);
    c[i] += alpha * total;
  }
}

void dots_float(std::int64_t rows, std::int64_t size, float alpha, const float* x, std::int64_t ldx,
                const float* a, float* h, std::int64_t ldh) {
  dots(rows, size, alpha, x, ldx, a, h, ldh);
}
void dots_bf16(std::int64_t rows, std::int64_t size, float alpha, const c10::BFloat16* x,
               std::int64_t ldx, const float* a, float* h, std::int64_t ldh) {
  dots(rows, size, alpha, x, ldx, a, h, ldh);
}
void add_float(std::int64_t rows, std::int64_t size, float alpha, const float* h, std::int64_t ldh,
               const float* b, float* y, std::int64_t ldy) {
  add(rows, size, alpha, h, ldh, b, y, ldy);
}
void add_bf16(std::int64_t rows, std::int64_t size, float alpha, const float* h, std::int64_t ldh,
              const float* b, c10::BFloat16* y, std::int64_t ldy) {
  add(rows, size, alpha, h, ldh, b, y, ldy);
}
void sum_float(std::int64_t rows, std::int64_t size, float alpha, const float* h, std::int64_t ldh,
               const float* x, std::int64_t ldx, float* c) {
  sum(rows, size, alpha, h, ldh, x, ldx, c);
}
void sum_bf16(std::int64_t rows, std::int64_t size, float alpha, const float* h, std::int64_t ldh,
              const c10::BFloat16* x, std::int64_t ldx, float* c) {
  sum(rows, size, alpha, h, ldh, x, ldx, c);
}

}  // namespace tailor::models::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tailor::models::kernels {
namespace {

HWY_EXPORT(dots_float);
HWY_EXPORT(dots_bf16);
HWY_EXPORT(add_float);
HWY_EXPORT(add_bf16);
HWY_EXPORT(sum_float);
HWY_EXPORT(sum_bf16);

}  // namespace

template <>
void row_dots(std::int64_t rows, std::int64_t size, float alpha, const float* x, std::int64_t ldx,
              const float* a, float* h, std::int64_t ldh) {
  HWY_DYNAMIC_DISPATCH(dots_float)(rows, size, alpha, x, ldx, a, h, ldh);
}
template <>
void row_dots(std::int64_t rows, std::int64_t size, float alpha, const c10::BFloat16* x,
              std::int64_t ldx, const float* a, float* h, std::int64_t ldh) {
  HWY_DYNAMIC_DISPATCH(dots_bf16)(rows, size, alpha, x, ldx, a, h, ldh);
}
template <>
void add_to_rows(std::int64_t rows, std::int64_t size, float alpha, const float* h,
                 std::int64_t ldh, const float* b, float* y, std::int64_t ldy) {
  HWY_DYNAMIC_DISPATCH(add_float)(rows, size, alpha, h, ldh, b, y, ldy);
}
template <>
void add_to_rows(std::int64_t rows, std::int64_t size, float alpha, const float* h,
                 std::int64_t ldh, const float* b, c10::BFloat16* y, std::int64_t ldy) {
  HWY_DYNAMIC_DISPATCH(add_bf16)(rows, size, alpha, h, ldh, b, y, ldy);
}
template <>
void sum_of_rows(std::int64_t rows, std::int64_t size, float alpha, const float* h,
                 std::int64_t ldh, const float* x, std::int64_t ldx, float* c) {
  HWY_DYNAMIC_DISPATCH(sum_float)(rows, size, alpha, h, ldh, x, ldx, c);
}
template <>
void sum_of_rows(std::int64_t rows, std::int64_t size, float alpha, const float* h,
                 std::int64_t ldh, const c10::BFloat16* x, std::int64_t ldx, float* c) {
  HWY_DYNAMIC_DISPATCH(sum_bf16)(rows, size, alpha, h, ldh, x, ldx, c);
}

}  // namespace tailor::models::kernels
#endif  // HWY_ONCE
