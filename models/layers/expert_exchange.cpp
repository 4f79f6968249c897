// T tokens, K experts of each, M rows of experts, D values a row.
#include "models/layers/expert_exchange.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sort.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/custom_function.h>

#include "models/kernels/token_copies.hpp"

namespace tailor::models {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Copy : torch::autograd::Function<Copy> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_TD,
                            const at::Tensor& row_of_TK, std::int64_t num_rows) {
    ctx->save_for_backward({row_of_TK});
    return kernels::copy_tokens(x_TD, row_of_TK, num_rows);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    const auto row_of_TK = ctx->get_saved_variables()[0];
    return {kernels::sum_copies(dy[0].contiguous(), row_of_TK), {}, {}};
  }
};

struct Sum : torch::autograd::Function<Sum> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& rows_MD,
                            const at::Tensor& weights_TK, const at::Tensor& row_of_TK) {
    ctx->save_for_backward({rows_MD, weights_TK, row_of_TK});
    return kernels::sum_copies(rows_MD, row_of_TK, weights_TK);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    const auto saved = ctx->get_saved_variables();
    auto [drows, dweights] =
        kernels::sum_copies_backward(dy[0].contiguous(), saved[0], saved[2], saved[1]);
    return {drows, dweights, {}};
  }
};

class LocalExchange final : public ExpertExchange {
 public:
  explicit LocalExchange(std::int64_t num_experts) : num_experts_(num_experts) {}

  DispatchedRows dispatch(const at::Tensor& x_TD, const at::Tensor& ids_TK) override {
    auto sorted = std::make_shared<SortedSlots>(sort_by_expert(ids_TK, num_experts_));
    return {copy_tokens(x_TD, *sorted), {sorted->row_offsets}, sorted};
  }
  at::Tensor combine(const at::Tensor& out_MD, const at::Tensor& weights_TK,
                     const DispatchedRows& rows) override {
    return sum_copies(out_MD, weights_TK, *static_cast<const SortedSlots*>(rows.plan.get()));
  }

 private:
  std::int64_t num_experts_;
};

}  // namespace

SortedSlots sort_by_expert_plainly(const at::Tensor& ids_TK, std::int64_t num_experts) {
  const auto ids = ids_TK.flatten();
  // Counted from those that go nowhere.
  const auto counts = at::bincount(ids + 1, /*weights=*/{}, num_experts + 1).cpu();
  TORCH_CHECK_VALUE(counts.numel() == num_experts + 1, "experts: no expert ", counts.numel() - 2,
                    " among ", num_experts);
  const auto* count = counts.const_data_ptr<std::int64_t>();
  SortedSlots out;
  out.row_offsets.assign(1, 0);
  for (std::int64_t e = 0; e < num_experts; ++e)
    out.row_offsets.push_back(out.row_offsets.back() + count[e + 1]);
  const auto slots = std::get<1>(at::sort(ids, /*stable=*/true, /*dim=*/0, /*descending=*/false));
  const auto rows = (at::arange(ids.numel(), ids.options()) - count[0]).clamp_min(-1);
  out.row_of_TK = at::empty(ids_TK.sizes(), ids.options());
  out.row_of_TK.view({-1}).scatter_(0, slots, rows);
  return out;
}

SortedSlots sort_by_expert(const at::Tensor& ids_TK, std::int64_t num_experts) {
  TORCH_CHECK_VALUE(ids_TK.dim() == 2 && ids_TK.scalar_type() == at::kLong,
                    "experts: need (T, K) int64 ids, got ", ids_TK.scalar_type(), " ",
                    ids_TK.sizes());
  if (!ids_TK.is_cpu()) return sort_by_expert_plainly(ids_TK, num_experts);
  const auto ids = ids_TK.contiguous();
  const auto* id = ids.const_data_ptr<std::int64_t>();
  const auto slots = ids.numel();
  SortedSlots out;
  out.row_offsets.assign(static_cast<std::size_t>(num_experts + 1), 0);
  for (std::int64_t i = 0; i < slots; ++i) {
    TORCH_CHECK_VALUE(id[i] >= -1 && id[i] < num_experts, "experts: no expert ", id[i], " among ",
                      num_experts);
    if (id[i] >= 0) ++out.row_offsets[static_cast<std::size_t>(id[i] + 1)];
  }
  for (std::size_t e = 1; e < out.row_offsets.size(); ++e)
    out.row_offsets[e] += out.row_offsets[e - 1];
  out.row_of_TK = at::empty(ids.sizes(), ids.options());
  auto* row_of = out.row_of_TK.mutable_data_ptr<std::int64_t>();
  auto next = out.row_offsets;  // slots in order, so that the sort is stable
  for (std::int64_t i = 0; i < slots; ++i)
    row_of[i] = id[i] < 0 ? -1 : next[static_cast<std::size_t>(id[i])]++;
  return out;
}

at::Tensor copy_tokens(const at::Tensor& x_TD, const SortedSlots& slots) {
  return Copy::apply(x_TD.contiguous(), slots.row_of_TK, slots.row_offsets.back());
}

at::Tensor sum_copies(const at::Tensor& rows_MD, const at::Tensor& weights_TK,
                      const SortedSlots& slots) {
  return Sum::apply(rows_MD.contiguous(), weights_TK, slots.row_of_TK);
}

std::shared_ptr<ExpertExchange> make_local_exchange(std::int64_t num_experts) {
  return std::make_shared<LocalExchange>(num_experts);
}

}  // namespace tailor::models
