#include "models/kernels/attention_rows.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "models/kernels/attention_rows.cpp"
#include <hwy/foreach_target.h>
// after foreach_target
#include <hwy/contrib/math/math-inl.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "models/kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace tailor::models::kernels::HWY_NAMESPACE {

/// p[j] = exp(score[j] - top) for the first `seen` keys, top their largest score; 0 for the others.
/// Answers the sum of p, which divides later, and top.
struct Softmax {
  float sum, top;
};
template <class T>
Softmax softmax_row(const float* score, std::int64_t seen, std::int64_t n, T* p) {
  const Floats d;
  auto tops = hn::Set(d, -std::numeric_limits<float>::infinity());
  auto top = -std::numeric_limits<float>::infinity();
  for_row(
      d, seen, [&](std::int64_t j) { tops = hn::Max(tops, hn::LoadU(d, score + j)); },
      [&](std::int64_t j) { top = std::max(top, score[j]); });
  top = std::max(top, hn::GetLane(hn::MaxOfLanes(d, tops)));
  const auto vtop = hn::Set(d, top);
  auto sums = hn::Zero(d);
  float rest = 0.0F;
  for_row(
      d, seen,
      [&](std::int64_t j) {
        const auto v = hn::Exp(d, hn::Sub(hn::LoadU(d, score + j), vtop));
        sums = hn::Add(sums, v);
        store(d, v, p + j);
      },
      [&](std::int64_t j) {
        const auto v = std::exp(score[j] - top);
        rest += v;
        p[j] = static_cast<T>(v);
      });
  std::fill(p + seen, p + n, static_cast<T>(0.0F));
  return {hn::GetLane(hn::SumOfLanes(d, sums)) + rest, top};
}

/// p[j] = exp(score[j] - log_sum), ds[j] = scale p[j] (dp[j] - dot); 0 beyond the seen keys.
template <class T>
void gradient_row(const float* score, const float* dp, float log_sum, float dot, float scale,
                  std::int64_t seen, std::int64_t n, T* p, T* ds) {
  const Floats d;
  const auto shift = hn::Set(d, log_sum), vdot = hn::Set(d, dot), vscale = hn::Set(d, scale);
  for_row(
      d, seen,
      [&](std::int64_t j) {
        const auto v = hn::Exp(d, hn::Sub(hn::LoadU(d, score + j), shift));
        store(d, v, p + j);
        store(d, hn::Mul(hn::Mul(vscale, v), hn::Sub(hn::LoadU(d, dp + j), vdot)), ds + j);
      },
      [&](std::int64_t j) {
        const auto v = std::exp(score[j] - log_sum);
        p[j] = static_cast<T>(v);
        ds[j] = static_cast<T>(scale * v * (dp[j] - dot));
      });
  std::fill(p + seen, p + n, static_cast<T>(0.0F));
  std::fill(ds + seen, ds + n, static_cast<T>(0.0F));
}

template <class T>
float dot_row(const T* a, const T* b, std::int64_t size) {
  const Floats d;
  auto sums = hn::Zero(d);
  float rest = 0.0F;
  for_row(
      d, size, [&](std::int64_t i) { sums = hn::MulAdd(load(d, a + i), load(d, b + i), sums); },
      [&](std::int64_t i) { rest += static_cast<float>(a[i]) * static_cast<float>(b[i]); });
  return hn::GetLane(hn::SumOfLanes(d, sums)) + rest;
}

/// y = factor x in y's dtype.
template <class T>
void narrow_row(const float* x, float factor, std::int64_t size, T* y) {
  const Floats d;
  const auto f = hn::Set(d, factor);
  for_row(
      d, size, [&](std::int64_t i) { store(d, hn::Mul(f, hn::LoadU(d, x + i)), y + i); },
      [&](std::int64_t i) { y[i] = static_cast<T>(factor * x[i]); });
}

void softmax_float(const float* s, std::int64_t seen, std::int64_t n, float* p, float* sum,
                   float* top) {
  const auto row = softmax_row(s, seen, n, p);
  *sum = row.sum, *top = row.top;
}
void softmax_bf16(const float* s, std::int64_t seen, std::int64_t n, c10::BFloat16* p, float* sum,
                  float* top) {
  const auto row = softmax_row(s, seen, n, p);
  *sum = row.sum, *top = row.top;
}
void gradient_float(const float* s, const float* dp, float log_sum, float dot, float scale,
                    std::int64_t seen, std::int64_t n, float* p, float* ds) {
  gradient_row(s, dp, log_sum, dot, scale, seen, n, p, ds);
}
void gradient_bf16(const float* s, const float* dp, float log_sum, float dot, float scale,
                   std::int64_t seen, std::int64_t n, c10::BFloat16* p, c10::BFloat16* ds) {
  gradient_row(s, dp, log_sum, dot, scale, seen, n, p, ds);
}
float dot_float(const float* a, const float* b, std::int64_t size) { return dot_row(a, b, size); }
float dot_bf16(const c10::BFloat16* a, const c10::BFloat16* b, std::int64_t size) {
  return dot_row(a, b, size);
}
void narrow_float(const float* x, float factor, std::int64_t size, float* y) {
  narrow_row(x, factor, size, y);
}
void narrow_bf16(const float* x, float factor, std::int64_t size, c10::BFloat16* y) {
  narrow_row(x, factor, size, y);
}

}  // namespace tailor::models::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tailor::models::kernels {
namespace {

HWY_EXPORT(softmax_float);
HWY_EXPORT(softmax_bf16);
HWY_EXPORT(gradient_float);
HWY_EXPORT(gradient_bf16);
HWY_EXPORT(dot_float);
HWY_EXPORT(dot_bf16);
HWY_EXPORT(narrow_float);
HWY_EXPORT(narrow_bf16);

}  // namespace

void softmax_row(const float* score, std::int64_t seen, std::int64_t n, float* p, float* sum,
                 float* top) {
  HWY_DYNAMIC_DISPATCH(softmax_float)(score, seen, n, p, sum, top);
}
void gradient_row(const float* score, const float* dp, float log_sum, float dot, float scale,
                  std::int64_t seen, std::int64_t n, float* p, float* ds) {
  HWY_DYNAMIC_DISPATCH(gradient_float)(score, dp, log_sum, dot, scale, seen, n, p, ds);
}
float dot_row(const float* a, const float* b, std::int64_t size) {
  return HWY_DYNAMIC_DISPATCH(dot_float)(a, b, size);
}
void narrow_row(const float* x, float factor, std::int64_t size, float* y) {
  HWY_DYNAMIC_DISPATCH(narrow_float)(x, factor, size, y);
}

void softmax_row(const float* score, std::int64_t seen, std::int64_t n, c10::BFloat16* p,
                 float* sum, float* top) {
  HWY_DYNAMIC_DISPATCH(softmax_bf16)(score, seen, n, p, sum, top);
}
void gradient_row(const float* score, const float* dp, float log_sum, float dot, float scale,
                  std::int64_t seen, std::int64_t n, c10::BFloat16* p, c10::BFloat16* ds) {
  HWY_DYNAMIC_DISPATCH(gradient_bf16)(score, dp, log_sum, dot, scale, seen, n, p, ds);
}
float dot_row(const c10::BFloat16* a, const c10::BFloat16* b, std::int64_t size) {
  return HWY_DYNAMIC_DISPATCH(dot_bf16)(a, b, size);
}
void narrow_row(const float* x, float factor, std::int64_t size, c10::BFloat16* y) {
  HWY_DYNAMIC_DISPATCH(narrow_bf16)(x, factor, size, y);
}

}  // namespace tailor::models::kernels
#endif  // HWY_ONCE
