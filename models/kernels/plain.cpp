// T tokens, K slots of each, M rows, R = M + 1, D values a row.
#include "models/kernels/plain.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/zeros.h>

namespace tailor::models::kernels::plain {
namespace {

at::ScalarType exact(const at::Tensor& x) { return c10::promoteTypes(x.scalar_type(), at::kFloat); }

/// (M + 1, D): a row of zeros, then the rows; slots without a row read the first.
at::Tensor with_none(const at::Tensor& rows_MD) {
  return at::cat({at::zeros({1, rows_MD.size(1)}, rows_MD.options()), rows_MD});
}

}  // namespace

std::pair<at::Tensor, at::Tensor> swiglu_backward(const at::Tensor& dy, const at::Tensor& gate,
                                                  const at::Tensor& up) {
  const auto g = gate.to(exact(gate)), u = up.to(exact(gate)), v = dy.to(exact(gate));
  const auto s = g.sigmoid();
  return {(v * u * s * (1.0 + g * (1.0 - s))).to(gate.scalar_type()),
          (v * g * s).to(gate.scalar_type())};
}

at::Tensor copy_tokens(const at::Tensor& x_TD, const at::Tensor& row_of_TK, std::int64_t num_rows) {
  // Row 0 takes the slots that go nowhere.
  auto slot_of_R = at::empty({num_rows + 1}, row_of_TK.options());
  slot_of_R.scatter_(0, row_of_TK.flatten() + 1,
                     at::arange(row_of_TK.numel(), row_of_TK.options()));
  const auto slot_of_M = slot_of_R.narrow(0, 1, num_rows);
  return x_TD.index_select(0, slot_of_M.floor_divide(row_of_TK.size(1)));
}

at::Tensor sum_copies(const at::Tensor& rows_MD, const at::Tensor& row_of_TK,
                      const at::Tensor& weights_TK) {
  const auto rows_RD = with_none(rows_MD);
  auto sum_TD =
      at::zeros({row_of_TK.size(0), rows_MD.size(1)}, rows_MD.options().dtype(exact(rows_MD)));
  for (std::int64_t k = 0; k < row_of_TK.size(1); ++k) {  // in the order of slots
    const auto part_TD =
        rows_RD.index_select(0, row_of_TK.select(1, k) + 1).to(sum_TD.scalar_type());
    if (weights_TK.defined())
      sum_TD.addcmul_(part_TD, weights_TK.select(1, k).unsqueeze(1));
    else
      sum_TD.add_(part_TD);
  }
  return sum_TD.to(rows_MD.scalar_type());
}

std::pair<at::Tensor, at::Tensor> sum_copies_backward(const at::Tensor& dy_TD,
                                                      const at::Tensor& rows_MD,
                                                      const at::Tensor& row_of_TK,
                                                      const at::Tensor& weights_TK) {
  const auto rows_RD = with_none(rows_MD);
  auto drows_RD = at::empty_like(rows_RD);
  auto dweights_TK = at::empty(row_of_TK.sizes(), weights_TK.options());
  const auto exact_TD = dy_TD.to(exact(dy_TD));
  for (std::int64_t k = 0; k < row_of_TK.size(1); ++k) {
    const auto row_of_T = row_of_TK.select(1, k) + 1;
    dweights_TK.select(1, k).copy_((exact_TD * rows_RD.index_select(0, row_of_T)).sum(1));
    drows_RD.index_copy_(
        0, row_of_T, (exact_TD * weights_TK.select(1, k).unsqueeze(1)).to(rows_MD.scalar_type()));
  }
  return {drows_RD.narrow(0, 1, rows_MD.size(0)), dweights_TK};
}

}  // namespace tailor::models::kernels::plain
