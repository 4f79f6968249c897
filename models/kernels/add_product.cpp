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

void check_product(const at::Tensor& c_MN, const at::Tensor& a_MK, const at::Tensor& b_KN) {
  const bool matrices = c_MN.dim() == 2 && a_MK.dim() == 2 && b_KN.dim() == 2;
  TORCH_CHECK_VALUE(matrices && a_MK.size(0) == c_MN.size(0) && a_MK.size(1) == b_KN.size(0) &&
                        b_KN.size(1) == c_MN.size(1) &&
                        (c_MN.size(1) <= 1 || c_MN.stride(1) == 1) &&
                        a_MK.device() == c_MN.device() && b_KN.device() == c_MN.device(),
                    "matrix product: ", a_MK.sizes(), " x ", b_KN.sizes(), " into ", c_MN.sizes());
}

void add_product_(at::Tensor& c_MN, const at::Tensor& a_MK, const at::Tensor& b_KN, double beta,
                  double alpha) {
  check_product(c_MN, a_MK, b_KN);
  if (!takes_tiles(c_MN)) {
    at::addmm_out(c_MN, c_MN, a_MK, b_KN, beta, alpha);
    return;
  }
  tiled_gemm(c_MN.size(0), c_MN.size(1), a_MK.size(1), static_cast<float>(alpha), view_of(a_MK),
             view_of(b_KN), static_cast<float>(beta), c_MN.mutable_data_ptr<float>(),
             c_MN.stride(0));
}

}  // namespace tailor::models::kernels
