// T tokens, N heads, H head_dim, F H / 2.
#include "models/kernels/rotary.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "models/kernels/rotary.cpp"
#include <hwy/foreach_target.h>
// after foreach_target
#include "models/kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace tailor::models::kernels::HWY_NAMESPACE {

/// One token: all heads turn by the same angles. `sign` is -1 for the inverse.
template <class T>
void rotate_token(const T* x, const float* cos, const float* sin, float sign, T* y,
                  std::int64_t num_heads, std::int64_t half) {
  const Floats d;
  const auto vsign = hn::Set(d, sign);
  for (std::int64_t n = 0; n < num_heads; ++n, x += 2 * half, y += 2 * half) {
    for_row(
        d, half,
        [&](std::int64_t i) {
          const auto a = load(d, x + i), b = load(d, x + half + i);
          const auto c = hn::LoadU(d, cos + i), s = hn::Mul(vsign, hn::LoadU(d, sin + i));
          store(d, hn::NegMulAdd(b, s, hn::Mul(a, c)), y + i);
          store(d, hn::MulAdd(a, s, hn::Mul(b, c)), y + half + i);
        },
        [&](std::int64_t i) {
          const auto a = static_cast<float>(x[i]), b = static_cast<float>(x[half + i]);
          const auto s = sign * sin[i];
          y[i] = static_cast<T>(a * cos[i] - b * s);
          y[half + i] = static_cast<T>(b * cos[i] + a * s);
        });
  }
}

void rotate_float(const float* x, const float* cos, const float* sin, float sign, float* y,
                  std::int64_t num_heads, std::int64_t half) {
  rotate_token(x, cos, sin, sign, y, num_heads, half);
}
void rotate_bf16(const c10::BFloat16* x, const float* cos, const float* sin, float sign,
                 c10::BFloat16* y, std::int64_t num_heads, std::int64_t half) {
  rotate_token(x, cos, sin, sign, y, num_heads, half);
}

}  // namespace tailor::models::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include "models/kernels/on_device.hpp"

namespace tailor::models::kernels {
namespace {

HWY_EXPORT(rotate_float);
HWY_EXPORT(rotate_bf16);

template <class T, class Kernel>
void rotate_tokens(Kernel kernel, const at::Tensor& x_TNH, const at::Tensor& cos_TF,
                   const at::Tensor& sin_TF, float sign, at::Tensor& y_TNH) {
  const auto* x = x_TNH.const_data_ptr<T>();
  const auto* cos = cos_TF.const_data_ptr<float>();
  const auto* sin = sin_TF.const_data_ptr<float>();
  auto* y = y_TNH.mutable_data_ptr<T>();
  const auto heads = x_TNH.size(1), size = x_TNH.size(2), half = size / 2;
  const auto stride = x_TNH.stride(0);
  const auto tokens_a_task = 1 + 32768 / (heads * size);
  at::parallel_for(0, x_TNH.size(0), tokens_a_task, [&](std::int64_t begin, std::int64_t end) {
    for (auto t = begin; t < end; ++t)
      kernel(x + t * stride, cos + t * half, sin + t * half, sign, y + t * heads * size, heads,
             half);
  });
}

}  // namespace

at::Tensor rotate(const at::Tensor& x_TNH, const at::Tensor& cos_TF, const at::Tensor& sin_TF,
                  bool inverse) {
  TORCH_CHECK_VALUE(x_TNH.dim() == 3 && x_TNH.stride(2) == 1 && x_TNH.stride(1) == x_TNH.size(2) &&
                        cos_TF.is_contiguous() && sin_TF.is_contiguous() &&
                        cos_TF.size(0) == x_TNH.size(0) && 2 * cos_TF.size(1) == x_TNH.size(2),
                    "rotate: x must be (T, N, H) and the angles (T, H/2), got ", x_TNH.sizes(),
                    " and ", cos_TF.sizes());
  if (!x_TNH.is_cpu()) return on_device::rotate(x_TNH, cos_TF, sin_TF, inverse);
  auto y_TNH = at::empty(x_TNH.sizes(), x_TNH.options());
  const float sign = inverse ? -1.0F : 1.0F;
  if (x_TNH.scalar_type() == at::kBFloat16) {
    rotate_tokens<c10::BFloat16>([](auto... a) { return HWY_DYNAMIC_DISPATCH(rotate_bf16)(a...); },
                                 x_TNH, cos_TF, sin_TF, sign, y_TNH);
  } else {
    rotate_tokens<float>([](auto... a) { return HWY_DYNAMIC_DISPATCH(rotate_float)(a...); }, x_TNH,
                         cos_TF, sin_TF, sign, y_TNH);
  }
  return y_TNH;
}

at::Tensor rotate_reference(const at::Tensor& x_TNH, const at::Tensor& cos_TF,
                            const at::Tensor& sin_TF, bool inverse) {
  const auto exact = c10::promoteTypes(x_TNH.scalar_type(), at::kFloat);
  const auto half = x_TNH.size(2) / 2;
  const auto a = x_TNH.to(exact).narrow(2, 0, half), b = x_TNH.to(exact).narrow(2, half, half);
  const auto cos_T1F = cos_TF.unsqueeze(1);
  const auto sin_T1F = inverse ? -sin_TF.unsqueeze(1) : sin_TF.unsqueeze(1);
  return at::cat({a * cos_T1F - b * sin_T1F, b * cos_T1F + a * sin_T1F}, 2).to(x_TNH.scalar_type());
}

}  // namespace tailor::models::kernels
#endif  // HWY_ONCE
