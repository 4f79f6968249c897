#pragma once

#include <ATen/core/Tensor.h>

#include "models/kernels/tiled_gemm.hpp"

namespace tailor::models::kernels {

/// c (M, N) = beta c + alpha a (M, K) b (K, N), a and b of any strides, c with its rows in one
/// piece; 0 beta does not read c. By tiled_gemm() where takes_tiles(), else by libtorch. Not
/// differentiated.
void add_product_(at::Tensor& c_MN, const at::Tensor& a_MK, const at::Tensor& b_KN,
                  double beta = 1.0, double alpha = 1.0);

/// float32 on a processor for which prefers_tiled_gemm().
bool takes_tiles(const at::Tensor& matrix);
MatrixView view_of(const at::Tensor& matrix);

}  // namespace tailor::models::kernels
