#include "models/kernels/sigmoid.hpp"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sigmoid.h>

#include <cmath>

namespace tailor::models::kernels {
namespace {

template <class T>
at::Tensor each(const at::Tensor& x) {
  auto y = at::empty_like(x, at::MemoryFormat::Contiguous);
  const auto* from = x.const_data_ptr<T>();
  auto* to = y.mutable_data_ptr<T>();
  at::parallel_for(0, x.numel(), /*grain_size=*/4096, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = begin; i < end; ++i)
      to[i] = static_cast<T>(1.0F / (1.0F + std::exp(-static_cast<float>(from[i]))));
  });
  return y;
}

}  // namespace

at::Tensor sigmoid(const at::Tensor& x) {
  if (x.is_cpu() && !at::GradMode::is_enabled()) {
    if (x.scalar_type() == at::kFloat) return each<float>(x.contiguous());
    if (x.scalar_type() == at::kBFloat16) return each<c10::BFloat16>(x.contiguous());
  }
  return at::sigmoid(x);
}

}  // namespace tailor::models::kernels
