#pragma once

#include <ATen/core/Tensor.h>

#include "models/kernels/tiled_gemm.hpp"

namespace tailor::models::kernels {

/// c (M, N) = beta c + alpha a (M, K) b (K, N), a and b of any strides, c with its rows in one
/// piece; 0 beta does not read c. By tiled_gemm() where takes_tiles(), else by libtorch. Not
/// differentiated.
void add_product_(at::Tensor& c_MN, const at::Tensor& a_MK, const at::Tensor& b_KN,
                  double beta = 1.0, double alpha = 1.0);

/// float32 in host memory, on a processor for which prefers_tiled_gemm().
bool takes_tiles(const at::Tensor& matrix);

/// A float32 matrix in host memory as tiled_gemm() takes it, for as long as its storage lives.
MatrixView view_of(const at::Tensor& matrix);

/// Throws ValueError where A (M, K) and B (K, N) do not fit C (M, N), lie on another device, or C's
/// rows are in pieces.
void check_product(const at::Tensor& c_MN, const at::Tensor& a_MK, const at::Tensor& b_KN);

}  // namespace tailor::models::kernels
