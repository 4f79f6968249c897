// M rows of all experts, I in, O out.
#include "models/kernels/grouped_gemm.hpp"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

namespace tailor::models::kernels {
namespace {

void check(const at::Tensor& rows_MF, std::span<const std::int64_t> row_offsets,
           std::span<const Weight> weights) {
  TORCH_CHECK_VALUE(row_offsets.size() == weights.size() + 1 && row_offsets.front() == 0 &&
                        row_offsets.back() == rows_MF.size(0),
                    "grouped product: offsets of ", weights.size(),
                    " experts must run from 0 to M = ", rows_MF.size(0));
}

template <class Product>
void each_expert(std::span<const std::int64_t> row_offsets, const Product& product) {
  for (std::size_t e = 0; e + 1 < row_offsets.size(); ++e) {
    const auto begin = row_offsets[e], length = row_offsets[e + 1] - begin;
    if (length > 0) product(e, begin, length);
  }
}

}  // namespace

at::Tensor grouped_forward(const at::Tensor& x_MI, std::span<const std::int64_t> row_offsets,
                           std::span<const Weight> weights) {
  return grouped_forward_reference(x_MI, row_offsets, weights);
}

void grouped_backward_(at::Tensor& dx_MI, const at::Tensor& dy_MO,
                       std::span<const std::int64_t> row_offsets, std::span<const Weight> weights) {
  check(dy_MO, row_offsets, weights);
  if (!dx_MI.defined())
    dx_MI = at::zeros({dy_MO.size(0), weights.front().in_features()}, dy_MO.options());
  each_expert(row_offsets, [&](std::size_t e, std::int64_t begin, std::int64_t length) {
    auto part = dx_MI.narrow(0, begin, length);
    weights[e].backward_(part, dy_MO.narrow(0, begin, length));
  });
}

at::Tensor grouped_forward_reference(const at::Tensor& x_MI,
                                     std::span<const std::int64_t> row_offsets,
                                     std::span<const Weight> weights) {
  check(x_MI, row_offsets, weights);
  auto y_MO = at::empty({x_MI.size(0), weights.front().out_features()}, x_MI.options());
  each_expert(row_offsets, [&](std::size_t e, std::int64_t begin, std::int64_t length) {
    y_MO.narrow(0, begin, length).copy_(weights[e].forward(x_MI.narrow(0, begin, length)));
  });
  return y_MO;
}

}  // namespace tailor::models::kernels
