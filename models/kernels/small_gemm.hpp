#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

namespace tailor::models::kernels {

/// Row-major products with float32 results over raw memory, for kernels that are themselves
/// parallel: inside a parallel region each runs on the calling thread. They are libtorch's own BLAS
/// (MKL), which exports the Fortran symbols, or tiled_gemm() where prefers_tiled_gemm(), of widened
/// copies where T, which is float or c10::BFloat16, is the latter. lda, ldb and ldc are the
/// distances of two rows in elements.

/// C (m, n) = alpha A (m, k) B (n, k)^T + beta C.
template <class T>
void gemm_nt(std::int64_t m, std::int64_t n, std::int64_t k, float alpha, const T* a,
             std::int64_t lda, const T* b, std::int64_t ldb, float beta, float* c,
             std::int64_t ldc);
/// C (m, n) = alpha A (m, k) B (k, n) + beta C.
template <class T>
void gemm_nn(std::int64_t m, std::int64_t n, std::int64_t k, float alpha, const T* a,
             std::int64_t lda, const T* b, std::int64_t ldb, float beta, float* c,
             std::int64_t ldc);
/// C (m, n) = alpha A (k, m)^T B (k, n) + beta C.
template <class T>
void gemm_tn(std::int64_t m, std::int64_t n, std::int64_t k, float alpha, const T* a,
             std::int64_t lda, const T* b, std::int64_t ldb, float beta, float* c,
             std::int64_t ldc);

}  // namespace tailor::models::kernels
