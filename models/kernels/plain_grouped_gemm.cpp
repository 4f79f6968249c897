// M rows of all experts, E experts, I in, O out.
#include <ATen/ops/_grouped_mm.h>
#include <ATen/ops/as_strided.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <vector>

#include "models/kernels/each_expert.hpp"
#include "models/kernels/plain.hpp"

namespace tailor::models::kernels::plain {
namespace {

/// The matrices as one tensor (E, O, I) over their memory; undefined where they do not lie one
/// behind the other or at::_grouped_mm does not take them.
at::Tensor as_one(std::span<const Weight> weights) {
  const auto& first = weights.front().stored();
  if (first.scalar_type() != at::kBFloat16 || !weights.front().keeps_operand() ||
      first.size(0) % kGroupedMultiple != 0 || first.size(1) % kGroupedMultiple != 0)
    return {};
  for (std::size_t e = 0; e < weights.size(); ++e) {
    const auto& stored = weights[e].stored();
    if (weights[e].arithmetic() != Arithmetic::BFloat16 || !stored.is_contiguous() ||
        !stored.is_alias_of(first) ||
        stored.storage_offset() !=
            first.storage_offset() + static_cast<std::int64_t>(e) * first.numel())
      return {};
  }
  return first.as_strided({static_cast<std::int64_t>(weights.size()), first.size(0), first.size(1)},
                          {first.numel(), first.size(1), 1}, first.storage_offset());
}

}  // namespace

at::Tensor row_ends(std::span<const std::int64_t> row_offsets, at::Device device) {
  return at::tensor(std::vector<int>(row_offsets.begin() + 1, row_offsets.end()), at::kInt)
      .to(device, at::kInt, /*non_blocking=*/true);
}

at::Tensor grouped_forward(const at::Tensor& x_MI, std::span<const std::int64_t> row_offsets,
                           std::span<const Weight> weights) {
  const auto x = x_MI.contiguous();
  if (const auto w_EOI = as_one(weights); w_EOI.defined() && x.size(0) > 0)
    return at::_grouped_mm(x, w_EOI.transpose(1, 2), row_ends(row_offsets, x.device()));
  return grouped_forward_reference(x, row_offsets, weights);
}

void grouped_backward_(at::Tensor& dx_MI, const at::Tensor& dy_MO,
                       std::span<const std::int64_t> row_offsets, std::span<const Weight> weights) {
  const auto dy = dy_MO.contiguous();
  const bool add = dx_MI.defined();
  if (const auto w_EOI = as_one(weights); w_EOI.defined() && dy.size(0) > 0) {
    const auto part_MI = at::_grouped_mm(dy, w_EOI, row_ends(row_offsets, dy.device()));
    dx_MI = add ? dx_MI.add_(part_MI) : part_MI;
    return;
  }
  if (!add) dx_MI = at::empty({dy.size(0), weights.front().in_features()}, dy.options());
  each_expert(row_offsets, [&](std::size_t e, std::int64_t begin, std::int64_t length) {
    auto part = dx_MI.narrow(0, begin, length);
    if (!add) part.zero_();
    weights[e].backward_(part, dy.narrow(0, begin, length));
  });
}

}  // namespace tailor::models::kernels::plain
