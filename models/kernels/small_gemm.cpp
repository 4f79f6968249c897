#include "models/kernels/small_gemm.hpp"

#include <algorithm>
#include <type_traits>
#include <vector>

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

/// float32 copies of bfloat16 rows, `ld` apart; the memory is the thread's.
const float* widened(std::vector<float>& memory, const c10::BFloat16* rows, std::int64_t count,
                     std::int64_t size, std::int64_t ld) {
  if (memory.size() < static_cast<std::size_t>(count * size))
    memory.resize(static_cast<std::size_t>(count * size));
  for (std::int64_t i = 0; i < count; ++i)
    std::copy_n(rows + i * ld, size, memory.data() + i * size);
  return memory.data();
}

/// On AMD's processors MKL multiplies bfloat16 at less than half the speed that tiles of float32
/// reach (Zen 5: 105 and 245 GFLOP/s a core): B is widened part by part, as columns of C.
void widened_tiles(char transa, char transb, std::int64_t m, std::int64_t n, std::int64_t k,
                   float alpha, const c10::BFloat16* a, std::int64_t lda, const c10::BFloat16* b,
                   std::int64_t ldb, float beta, float* c, std::int64_t ldc) {
  constexpr std::int64_t kPartElements = std::int64_t{1} << 18, kMinColumns = 64;
  thread_local std::vector<float> a_memory, b_memory;
  const bool a_turned = transa == 'T', b_turned = transb == 'T';
  const auto a_size = a_turned ? m : k;
  const auto* const wide_a = widened(a_memory, a, a_turned ? k : m, a_size, lda);
  const auto most = std::max(kMinColumns, kPartElements / std::max<std::int64_t>(1, k));
  for (std::int64_t j = 0; j < n; j += most) {
    const auto columns = std::min(most, n - j);
    const auto* const wide_b = b_turned ? widened(b_memory, b + j * ldb, columns, k, ldb)
                                        : widened(b_memory, b + j, k, columns, ldb);
    tiled_gemm(m, columns, k, alpha, view(wide_a, transa, a_size),
               view(wide_b, transb, b_turned ? k : columns), beta, c + j, ldc);
  }
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
  } else if (prefers_tiled_gemm()) {
    widened_tiles(transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    return;
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
