#include "models/kernels/swiglu.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "models/kernels/swiglu.cpp"
#include <hwy/foreach_target.h>
// after foreach_target
#include <hwy/contrib/math/math-inl.h>

#include "models/kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace tailor::models::kernels::HWY_NAMESPACE {

HWY_INLINE VFloats sigmoid(Floats d, VFloats x) {
  const auto one = hn::Set(d, 1.0F);
  return hn::Div(one, hn::Add(one, hn::Exp(d, hn::Neg(x))));
}
/// A lane of the other, which rounds otherwise than std::exp(): where in a tensor a value lies
/// shall not be seen in its bits.
HWY_INLINE float sigmoid(float x) {
  const Floats d;
  return hn::GetLane(sigmoid(d, hn::Set(d, x)));
}

template <class T>
void forward(const T* gate, const T* up, T* y, std::int64_t size) {
  const Floats d;
  for_row(
      d, size,
      [&](std::int64_t i) {
        const auto g = load(d, gate + i);
        store(d, hn::Mul(hn::Mul(g, sigmoid(d, g)), load(d, up + i)), y + i);
      },
      [&](std::int64_t i) {
        const auto g = static_cast<float>(gate[i]);
        y[i] = static_cast<T>(g * sigmoid(g) * static_cast<float>(up[i]));
      });
}

template <class T>
void backward(const T* dy, const T* gate, const T* up, T* dgate, T* dup, std::int64_t size) {
  const Floats d;
  const auto one = hn::Set(d, 1.0F);
  for_row(
      d, size,
      [&](std::int64_t i) {
        const auto g = load(d, gate + i), u = load(d, up + i), v = load(d, dy + i);
        const auto s = sigmoid(d, g);
        const auto slope = hn::Mul(s, hn::MulAdd(g, hn::Sub(one, s), one));
        store(d, hn::Mul(hn::Mul(v, u), slope), dgate + i);
        store(d, hn::Mul(v, hn::Mul(g, s)), dup + i);
      },
      [&](std::int64_t i) {
        const auto g = static_cast<float>(gate[i]), u = static_cast<float>(up[i]),
                   v = static_cast<float>(dy[i]);
        const auto s = sigmoid(g);
        dgate[i] = static_cast<T>(v * u * s * (1.0F + g * (1.0F - s)));
        dup[i] = static_cast<T>(v * g * s);
      });
}

void forward_float(const float* gate, const float* up, float* y, std::int64_t size) {
  forward(gate, up, y, size);
}
void forward_bf16(const c10::BFloat16* gate, const c10::BFloat16* up, c10::BFloat16* y,
                  std::int64_t size) {
  forward(gate, up, y, size);
}
void backward_float(const float* dy, const float* gate, const float* up, float* dgate, float* dup,
                    std::int64_t size) {
  backward(dy, gate, up, dgate, dup, size);
}
void backward_bf16(const c10::BFloat16* dy, const c10::BFloat16* gate, const c10::BFloat16* up,
                   c10::BFloat16* dgate, c10::BFloat16* dup, std::int64_t size) {
  backward(dy, gate, up, dgate, dup, size);
}

}  // namespace tailor::models::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sigmoid.h>
#include <c10/util/Exception.h>

#include "models/kernels/on_device.hpp"

namespace tailor::models::kernels {
namespace {

HWY_EXPORT(forward_float);
HWY_EXPORT(forward_bf16);
HWY_EXPORT(backward_float);
HWY_EXPORT(backward_bf16);

constexpr std::int64_t kElementsATask = 16384;  // below, waking a thread costs more

void check(const at::Tensor& gate, const at::Tensor& up) {
  TORCH_CHECK_VALUE(gate.sizes() == up.sizes() && gate.is_contiguous() && up.is_contiguous() &&
                        gate.scalar_type() == up.scalar_type(),
                    "swiglu: gate and up must be contiguous and alike, got ", gate.sizes(), " and ",
                    up.sizes());
}

}  // namespace

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  check(gate, up);
  if (!gate.is_cpu()) return on_device::swiglu(gate, up);
  auto y = at::empty_like(gate);
  const auto run = [&](auto kernel, const auto* g, const auto* u, auto* out) {
    at::parallel_for(0, gate.numel(), kElementsATask, [&](std::int64_t begin, std::int64_t end) {
      kernel(g + begin, u + begin, out + begin, end - begin);
    });
  };
  if (gate.scalar_type() == at::kBFloat16) {
    run([](auto... a) { return HWY_DYNAMIC_DISPATCH(forward_bf16)(a...); },
        gate.const_data_ptr<c10::BFloat16>(), up.const_data_ptr<c10::BFloat16>(),
        y.mutable_data_ptr<c10::BFloat16>());
  } else {
    run([](auto... a) { return HWY_DYNAMIC_DISPATCH(forward_float)(a...); },
        gate.const_data_ptr<float>(), up.const_data_ptr<float>(), y.mutable_data_ptr<float>());
  }
  return y;
}

at::Tensor swiglu_reference(const at::Tensor& gate, const at::Tensor& up) {
  const auto exact = c10::promoteTypes(gate.scalar_type(), at::kFloat);
  const auto g = gate.to(exact);
  return (g * g.sigmoid() * up.to(exact)).to(gate.scalar_type());
}

std::pair<at::Tensor, at::Tensor> swiglu_backward(const at::Tensor& dy, const at::Tensor& gate,
                                                  const at::Tensor& up) {
  check(gate, up);
  check(gate, dy);
  if (!gate.is_cpu()) return on_device::swiglu_backward(dy, gate, up);
  auto dgate = at::empty_like(gate), dup = at::empty_like(gate);
  const auto run = [&](auto kernel, const auto* v, const auto* g, const auto* u, auto* out_gate,
                       auto* out_up) {
    at::parallel_for(0, gate.numel(), kElementsATask, [&](std::int64_t begin, std::int64_t end) {
      kernel(v + begin, g + begin, u + begin, out_gate + begin, out_up + begin, end - begin);
    });
  };
  if (gate.scalar_type() == at::kBFloat16) {
    run([](auto... a) { return HWY_DYNAMIC_DISPATCH(backward_bf16)(a...); },
        dy.const_data_ptr<c10::BFloat16>(), gate.const_data_ptr<c10::BFloat16>(),
        up.const_data_ptr<c10::BFloat16>(), dgate.mutable_data_ptr<c10::BFloat16>(),
        dup.mutable_data_ptr<c10::BFloat16>());
  } else {
    run([](auto... a) { return HWY_DYNAMIC_DISPATCH(backward_float)(a...); },
        dy.const_data_ptr<float>(), gate.const_data_ptr<float>(), up.const_data_ptr<float>(),
        dgate.mutable_data_ptr<float>(), dup.mutable_data_ptr<float>());
  }
  return {dgate, dup};
}

}  // namespace tailor::models::kernels
#endif  // HWY_ONCE
