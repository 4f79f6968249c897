// T tokens, N query heads, K key/value heads, H width of a query's or key's head, V of a value's.
#include "models/kernels/flash_attention.hpp"

#include <ATen/Context.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <optional>
#include <vector>

namespace tailor::models::kernels {
namespace {

constexpr std::int64_t kMaxWidth = 256, kWidthMultiple = 8;

/// Where documents begin and end, int32 on the device, and how long the longest is.
struct Lengths {
  at::Tensor offsets;
  std::int64_t longest = 0;
};

Lengths lengths(const Documents& documents, at::Device device) {
  std::vector<int> offsets{0};
  std::int64_t longest = 0;
  for (std::size_t d = 1; d < documents.offsets.size(); ++d) {
    const auto length = documents.offsets[d] - documents.offsets[d - 1];
    if (length == 0) continue;
    offsets.push_back(static_cast<int>(documents.offsets[d]));
    longest = std::max(longest, length);
  }
  return {at::tensor(offsets, at::kInt).to(device, at::kInt, /*non_blocking=*/true), longest};
}

/// Values as wide as keys.
at::Tensor widened(const at::Tensor& x_TKV, std::int64_t width) {
  const auto missing = width - x_TKV.size(2);
  return missing > 0 ? at::constant_pad_nd(x_TKV, {0, missing}) : x_TKV;
}

at::Tensor narrowed(const at::Tensor& x_TKH, std::int64_t width) {
  return width < x_TKH.size(2) ? x_TKH.narrow(2, 0, width).contiguous() : x_TKH;
}

/// libtorch's deterministic kernels while one lives, as far as a call has them.
class Deterministic {
 public:
  Deterministic() {
    auto& context = at::globalContext();
    context.setDeterministicAlgorithms(true, /*warn_only=*/false);
    context.setDeterministicFillUninitializedMemory(false);
  }
  ~Deterministic() {
    auto& context = at::globalContext();
    context.setDeterministicAlgorithms(algorithms_, warn_only_);
    context.setDeterministicFillUninitializedMemory(fills_);
  }
  Deterministic(const Deterministic&) = delete;
  Deterministic& operator=(const Deterministic&) = delete;

 private:
  const bool algorithms_ = at::globalContext().deterministicAlgorithms();
  const bool warn_only_ = at::globalContext().deterministicAlgorithmsWarnOnly();
  const bool fills_ = at::globalContext().deterministicFillUninitializedMemory();
};

}  // namespace

bool takes_flash_attention(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                           const at::Tensor& v_TKV, const Documents& documents) {
  const auto width = q_TNH.size(2);
  return q_TNH.is_cuda() && q_TNH.scalar_type() == at::kBFloat16 && q_TNH.size(0) > 0 &&
         width <= kMaxWidth && width % kWidthMultiple == 0 && v_TKV.size(2) <= width &&
         q_TNH.size(1) % k_TKH.size(1) == 0 &&
         std::ranges::all_of(documents.prefix_of, [](std::int64_t d) { return d < 0; });
}

BlockAttention flash_attention(const at::Tensor& q_TNH, const at::Tensor& k_TKH,
                               const at::Tensor& v_TKV, const Documents& documents, double scale) {
  const auto [offsets, longest] = lengths(documents, q_TNH.device());
  const auto result = at::_flash_attention_forward(
      q_TNH, k_TKH, widened(v_TKV, q_TNH.size(2)), offsets, offsets, longest, longest,
      /*dropout_p=*/0.0, /*is_causal=*/true, /*return_debug_mask=*/false, std::optional(scale));
  return {narrowed(std::get<0>(result), v_TKV.size(2)), std::get<1>(result)};
}

AttentionGradients flash_attention_backward(const at::Tensor& dout_TNV, const at::Tensor& q_TNH,
                                            const at::Tensor& k_TKH, const at::Tensor& v_TKV,
                                            const BlockAttention& forward,
                                            const Documents& documents, double scale) {
  const auto [offsets, longest] = lengths(documents, q_TNH.device());
  const auto width = q_TNH.size(2);
  // Of dropout, which there is none of.
  const auto no_state = at::empty({2}, q_TNH.options().dtype(at::kUInt64));
  const Deterministic deterministic;
  const auto [dq, dk, dv] = at::_flash_attention_backward(
      widened(dout_TNV, width), q_TNH, k_TKH, widened(v_TKV, width),
      widened(forward.out_TNV, width), forward.log_sum_TN, offsets, offsets, longest, longest,
      /*dropout_p=*/0.0, /*is_causal=*/true, no_state, no_state, std::optional(scale));
  return {dq, dk, narrowed(dv, v_TKV.size(2))};
}

}  // namespace tailor::models::kernels
