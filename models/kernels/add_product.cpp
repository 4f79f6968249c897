#include "models/kernels/add_product.hpp"

#include <ATen/ops/addmm.h>
#include <c10/util/Exception.h>

namespace tailor::models::kernels {

bool takes_tiles(const at::Tensor& matrix) {
  return matrix.is_cpu() && matrix.scalar_type() == at::kFloat && prefers_tiled_gemm();
}

MatrixView view_of(const at::Tensor& matrix) {
  return {matrix.const_data_ptr<float>(), matrix.stride(0), matrix.stride(1)};
}

void add_product_(at::Tensor& c_MN, const at::Tensor& a_MK, const at::Tensor& b_KN, double beta,
                  double alpha) {
  const auto m = c_MN.size(0), n = c_MN.size(1), k = a_MK.size(1);
  TORCH_CHECK_VALUE(a_MK.size(0) == m && b_KN.size(0) == k && b_KN.size(1) == n &&
                        (n <= 1 || c_MN.stride(1) == 1),
                    "add_product_: ", a_MK.sizes(), " x ", b_KN.sizes(), " into ", c_MN.sizes());
  if (!takes_tiles(c_MN)) {
    at::addmm_out(c_MN, c_MN, a_MK, b_KN, beta, alpha);
    return;
  }
  tiled_gemm(m, n, k, static_cast<float>(alpha), view_of(a_MK), view_of(b_KN),
             static_cast<float>(beta), c_MN.mutable_data_ptr<float>(), c_MN.stride(0));
}

}  // namespace tailor::models::kernels
