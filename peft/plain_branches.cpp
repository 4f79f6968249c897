// M rows of all experts, E experts; F, G features or ranks.
#include "peft/plain_branches.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_grouped_mm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include "models/kernels/each_expert.hpp"
#include "models/kernels/plain.hpp"

namespace tailor::peft::plain {
namespace {

using models::kernels::each_expert;

/// Products of rows with the factors of their experts.
class Products {
 public:
  /// `wide` are rows of features that belong to a factor of rank `rank`.
  Products(std::span<const std::int64_t> offsets, const at::Tensor& wide_MF, std::int64_t rank)
      : offsets_(offsets) {
    using models::kernels::plain::kGroupedMultiple;
    together_ = wide_MF.scalar_type() == at::kBFloat16 && wide_MF.size(0) > 0 &&
                wide_MF.size(1) % kGroupedMultiple == 0 && rank % kGroupedMultiple == 0;
    if (together_) ends_E_ = models::kernels::plain::row_ends(offsets, wide_MF.device());
  }

  /// x_e w_e for w (E, F, G), or x w for one w (F, G): (M, G).
  at::Tensor times(const at::Tensor& x_MF, const at::Tensor& w) const {
    const auto x = operand(x_MF), factor = operand(w);
    if (w.dim() == 2) return x.mm(factor);
    if (together_) return at::_grouped_mm(x.contiguous(), factor, ends_E_);
    auto y_MG = at::empty({x.size(0), w.size(2)}, x.options());
    each_expert(offsets_, [&](std::size_t e, std::int64_t begin, std::int64_t length) {
      auto part = y_MG.narrow(0, begin, length);
      at::mm_out(part, x.narrow(0, begin, length), factor.select(0, static_cast<std::int64_t>(e)));
    });
    return y_MG;
  }

  /// a_e^T b_e of a (M, F) and b (M, G): (E, F, G), or a^T b of all rows where they are shared.
  at::Tensor sums(const at::Tensor& a_MF, const at::Tensor& b_MG, bool shared) const {
    const auto a_FM = operand(a_MF).contiguous().t(), b = operand(b_MG);
    if (shared) return a_FM.mm(b);
    if (together_) {
      auto sums_EFG = at::_grouped_mm(a_FM, b.contiguous(), ends_E_);
      // Not every GPU writes the sums of no rows (pytorch issue 172439).
      for (std::size_t e = 0; e + 1 < offsets_.size(); ++e)
        if (offsets_[e] == offsets_[e + 1])
          sums_EFG.select(0, static_cast<std::int64_t>(e)).zero_();
      return sums_EFG;
    }
    const auto num_experts = static_cast<std::int64_t>(offsets_.size()) - 1;
    auto sums_EFG = at::zeros({num_experts, a_FM.size(0), b.size(1)}, b.options());
    each_expert(offsets_, [&](std::size_t e, std::int64_t begin, std::int64_t length) {
      auto sum = sums_EFG.select(0, static_cast<std::int64_t>(e));
      at::mm_out(sum, a_FM.narrow(1, begin, length), b.narrow(0, begin, length));
    });
    return sums_EFG;
  }

 private:
  at::Tensor operand(const at::Tensor& x) const {
    return x.to(together_ ? at::kBFloat16 : at::kFloat);
  }

  std::span<const std::int64_t> offsets_;
  bool together_;
  at::Tensor ends_E_;
};

}  // namespace

void add_branches_(const at::Tensor& x_MI, std::span<const std::int64_t> offsets,
                   std::span<const Branch> branches, at::Tensor& h_MS, std::span<at::Tensor> y) {
  for (std::size_t i = 0; i < branches.size(); ++i) {
    const auto& branch = branches[i];
    const auto h_MR =
        Products(offsets, x_MI, branch.rank()).times(x_MI, branch.A.transpose(-2, -1));
    h_MS.narrow(1, branch.begin, branch.rank()).copy_(h_MR);
    y[i].add_(Products(offsets, y[i], branch.rank()).times(h_MR, branch.B.transpose(-2, -1)),
              branch.scale);
  }
}

void lower_branches_(std::span<const std::int64_t> offsets, std::span<const Branch> branches,
                     std::span<const at::Tensor> dy, at::Tensor& dh_MS, at::Tensor& dx_MI) {
  for (std::size_t i = 0; i < branches.size(); ++i) {
    if (!dy[i].defined()) continue;
    const auto& branch = branches[i];
    auto dh_MR = dh_MS.narrow(1, branch.begin, branch.rank());
    dh_MR.copy_(Products(offsets, dy[i], branch.rank()).times(dy[i], branch.B)).mul_(branch.scale);
    if (dx_MI.defined()) dx_MI.add_(Products(offsets, dx_MI, branch.rank()).times(dh_MR, branch.A));
  }
}

void add_sums_(std::span<const std::int64_t> offsets, std::span<const FactorSum> sums) {
  for (const auto& sum : sums) {
    const bool shared = sum.gradient.dim() == 2;
    const auto rank = sum.gradient.size(sum.of_A ? -2 : -1);
    const auto thin_MR = sum.thin_MS.narrow(1, sum.begin, rank);
    const Products products(offsets, sum.rows_MF, rank);
    sum.gradient.add_(sum.of_A ? products.sums(thin_MR, sum.rows_MF, shared)
                               : products.sums(sum.rows_MF, thin_MR, shared),
                      sum.scale);
  }
}

}  // namespace tailor::peft::plain
