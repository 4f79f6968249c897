// C rows, V vocabulary.
#include "models/kernels/token_loss.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "models/kernels/token_loss.cpp"
#include <hwy/foreach_target.h>
// after foreach_target
#include <hwy/contrib/math/math-inl.h>

#include "models/kernels/simd-inl.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

HWY_BEFORE_NAMESPACE();
namespace tailor::models::kernels::HWY_NAMESPACE {

template <class T>
float largest(const T* row, std::int64_t size) {
  const Floats d;
  auto top = hn::Set(d, -std::numeric_limits<float>::infinity());
  auto rest = -std::numeric_limits<float>::infinity();
  for_row(
      d, size, [&](std::int64_t i) { top = hn::Max(top, load(d, row + i)); },
      [&](std::int64_t i) { rest = std::max(rest, static_cast<float>(row[i])); });
  return std::max(rest, hn::GetLane(hn::MaxOfLanes(d, top)));
}

/// Answers -log softmax(row)[target]; writes softmax - onehot over the row where asked for.
template <class T>
float loss_row(T* row, std::int64_t size, std::int64_t target, bool gradient, bool* correct) {
  const Floats d;
  const auto top = largest(row, size);
  const auto picked = static_cast<float>(row[target]);
  *correct = picked >= top;
  const auto vtop = hn::Set(d, top);
  auto sums = hn::Zero(d);
  float rest = 0.0F;
  for_row(
      d, size,
      [&](std::int64_t i) { sums = hn::Add(sums, hn::Exp(d, hn::Sub(load(d, row + i), vtop))); },
      [&](std::int64_t i) { rest += std::exp(static_cast<float>(row[i]) - top); });
  const auto sum = hn::GetLane(hn::SumOfLanes(d, sums)) + rest;
  const auto log_sum = std::log(sum) + top;
  if (gradient) {
    // exp(x - log_sum) rather than a quotient: the exponential is recomputed, the row read once.
    const auto shift = hn::Set(d, log_sum);
    for_row(
        d, size,
        [&](std::int64_t i) { store(d, hn::Exp(d, hn::Sub(load(d, row + i), shift)), row + i); },
        [&](std::int64_t i) {
          row[i] = static_cast<T>(std::exp(static_cast<float>(row[i]) - log_sum));
        });
    row[target] = static_cast<T>(std::exp(picked - log_sum) - 1.0F);
  }
  return log_sum - picked;
}

float loss_float(float* row, std::int64_t size, std::int64_t target, bool gradient, bool* correct) {
  return loss_row(row, size, target, gradient, correct);
}
float loss_bf16(c10::BFloat16* row, std::int64_t size, std::int64_t target, bool gradient,
                bool* correct) {
  return loss_row(row, size, target, gradient, correct);
}

}  // namespace tailor::models::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/ones_like.h>
#include <c10/util/Exception.h>

#include "models/kernels/on_device.hpp"

namespace tailor::models::kernels {
namespace {

HWY_EXPORT(loss_float);
HWY_EXPORT(loss_bf16);

template <class T, class Kernel>
void loss_rows(Kernel kernel, at::Tensor& logits_CV, const at::Tensor& target_C, bool gradient,
               const TokenLosses& out) {
  auto* logits = logits_CV.mutable_data_ptr<T>();
  const auto* target = target_C.const_data_ptr<std::int64_t>();
  auto* loss = out.loss_C.mutable_data_ptr<float>();
  auto* correct = out.correct_C.mutable_data_ptr<bool>();
  const auto size = logits_CV.size(1);
  at::parallel_for(0, logits_CV.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto c = begin; c < end; ++c)
      loss[c] = kernel(logits + c * size, size, target[c], gradient, correct + c);
  });
}

}  // namespace

TokenLosses token_loss_(at::Tensor& logits_CV, const at::Tensor& target_C, bool gradient) {
  TORCH_CHECK_VALUE(
      logits_CV.dim() == 2 && logits_CV.is_contiguous() && target_C.numel() == logits_CV.size(0),
      "token_loss: logits must be contiguous (C, V) with C targets, got ", logits_CV.sizes(),
      " and ", target_C.sizes());
  if (!logits_CV.is_cpu()) return on_device::token_loss_(logits_CV, target_C, gradient);
  const TokenLosses out{at::empty({logits_CV.size(0)}, logits_CV.options().dtype(at::kFloat)),
                        at::empty({logits_CV.size(0)}, logits_CV.options().dtype(at::kBool))};
  if (logits_CV.scalar_type() == at::kBFloat16) {
    loss_rows<c10::BFloat16>([](auto... a) { return HWY_DYNAMIC_DISPATCH(loss_bf16)(a...); },
                             logits_CV, target_C, gradient, out);
  } else {
    loss_rows<float>([](auto... a) { return HWY_DYNAMIC_DISPATCH(loss_float)(a...); }, logits_CV,
                     target_C, gradient, out);
  }
  return out;
}

TokenLosses token_loss_reference_(at::Tensor& logits_CV, const at::Tensor& target_C,
                                  bool gradient) {
  const auto exact = c10::promoteTypes(logits_CV.scalar_type(), at::kFloat);
  const auto target_C1 = target_C.unsqueeze(1);
  const auto logp_CV = at::log_softmax(logits_CV.to(exact), 1);
  const auto top_C1 = std::get<0>(logits_CV.max(1, /*keepdim=*/true));
  const TokenLosses out{-logp_CV.gather(1, target_C1).squeeze(1).to(at::kFloat),
                        (logits_CV.gather(1, target_C1) >= top_C1).squeeze(1)};
  if (gradient) {
    auto grad_CV = logp_CV.exp();
    logits_CV.copy_(grad_CV.scatter_add(1, target_C1, -at::ones_like(target_C1).to(exact)));
  }
  return out;
}

}  // namespace tailor::models::kernels
#endif  // HWY_ONCE
