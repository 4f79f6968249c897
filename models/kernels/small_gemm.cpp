#include "models/kernels/small_gemm.hpp"

#include <type_traits>

#include "models/kernels/tiled_gemm.hpp"

extern "C" {
// The BLAS of libtorch_cpu. Column-major, every argument a pointer.
void sgemm_(const char* transa, const char* transb, const int* m, const int* n, const int* k,
            const float* alpha, const float* a, const int* lda, const float* b, const int* ldb,
            const float* beta, float* c, const int* ldc);
void gemm_bf16bf16f32_(const char* transa, const char* transb, const int* m, const int* n,
                       const int* k, const float* alpha, const std::uint16_t* a, const int* lda,
                       const std::uint16_t* b, const int* ldb, const float* beta, float* c,
                       const int* ldc);
}

namespace tailor::models::kernels {
namespace {

struct Sizes {
  int m, n, k, lda, ldb, ldc;
};

void column_major(char transa, char transb, const Sizes& s, float alpha, const float* a,
                  const float* b, float beta, float* c) {
  sgemm_(&transa, &transb, &s.m, &s.n, &s.k, &alpha, a, &s.lda, b, &s.ldb, &beta, c, &s.ldc);
}

void column_major(char transa, char transb, const Sizes& s, float alpha, const c10::BFloat16* a,
                  const c10::BFloat16* b, float beta, float* c) {
  gemm_bf16bf16f32_(&transa, &transb, &s.m, &s.n, &s.k, &alpha,
                    reinterpret_cast<const std::uint16_t*>(a), &s.lda,
                    reinterpret_cast<const std::uint16_t*>(b), &s.ldb, &beta, c, &s.ldc);
}

MatrixView view(const float* data, char transposed, std::int64_t ld) {
  return transposed == 'T' ? MatrixView{data, 1, ld} : MatrixView{data, ld, 1};
}

/// A row-major matrix is its transpose in column-major memory, so C^T = op(B)^T op(A)^T is asked
/// for: operands and their sizes change places.
template <class T>
void row_major(char transa, char transb, std::int64_t m, std::int64_t n, std::int64_t k,
               float alpha, const T* a, std::int64_t lda, const T* b, std::int64_t ldb, float beta,
               float* c, std::int64_t ldc) {
  if constexpr (std::is_same_v<T, float>) {
    if (prefers_tiled_gemm()) {
      tiled_gemm(m, n, k, alpha, view(a, transa, lda), view(b, transb, ldb), beta, c, ldc);
      return;
    }
  }
  const Sizes sizes{static_cast<int>(n),   static_cast<int>(m),   static_cast<int>(k),
                    static_cast<int>(ldb), static_cast<int>(lda), static_cast<int>(ldc)};
  column_major(transb, transa, sizes, alpha, b, a, beta, c);
}

}  // namespace

template <class T>
void gemm_nt(std::int64_t m, std::int64_t n, std::int64_t k, float alpha, const T* a,
             std::int64_t lda, const T* b, std::int64_t ldb, float beta, float* c,
             std::int64_t ldc) {
  row_major('N', 'T', m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

template <class T>
void gemm_nn(std::int64_t m, std::int64_t n, std::int64_t k, float alpha, const T* a,
             std::int64_t lda, const T* b, std::int64_t ldb, float beta, float* c,
             std::int64_t ldc) {
  row_major('N', 'N', m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

template <class T>
void gemm_tn(std::int64_t m, std::int64_t n, std::int64_t k, float alpha, const T* a,
             std::int64_t lda, const T* b, std::int64_t ldb, float beta, float* c,
             std::int64_t ldc) {
  row_major('T', 'N', m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

template void gemm_nt(std::int64_t, std::int64_t, std::int64_t, float, const float*, std::int64_t,
                      const float*, std::int64_t, float, float*, std::int64_t);
template void gemm_nn(std::int64_t, std::int64_t, std::int64_t, float, const float*, std::int64_t,
                      const float*, std::int64_t, float, float*, std::int64_t);
template void gemm_tn(std::int64_t, std::int64_t, std::int64_t, float, const float*, std::int64_t,
                      const float*, std::int64_t, float, float*, std::int64_t);
template void gemm_nt(std::int64_t, std::int64_t, std::int64_t, float, const c10::BFloat16*,
                      std::int64_t, const c10::BFloat16*, std::int64_t, float, float*,
                      std::int64_t);
template void gemm_nn(std::int64_t, std::int64_t, std::int64_t, float, const c10::BFloat16*,
                      std::int64_t, const c10::BFloat16*, std::int64_t, float, float*,
                      std::int64_t);
template void gemm_tn(std::int64_t, std::int64_t, std::int64_t, float, const c10::BFloat16*,
                      std::int64_t, const c10::BFloat16*, std::int64_t, float, float*,
                      std::int64_t);

}  // namespace tailor::models::kernels
