#pragma once

#include <cstdint>
#include <vector>

namespace tailor::peft {

/// Products of a block of rows (m, F) with a factor of rank R, on the calling thread, float32 sums.
/// T, the rows' type, is float or c10::BFloat16; h (m, R) and the factor are float32; `ld` are
/// distances of two rows in elements, and a factor has none between its rows. Rank 1 takes passes
/// over rows. `scratch` holds bfloat16 rows while they are widened.
enum class Factor {
  A,  // (R, F)
  B   // (F, R)
};

struct ThinShape {
  std::int64_t rows, features, rank;
};

/// h = alpha x A^T, or alpha x B.
template <class T>
void thin_product(Factor factor, const ThinShape& shape, double alpha, const T* x, std::int64_t ldx,
                  const float* values, float* h, std::int64_t ldh, std::vector<float>& scratch);
/// x += alpha h A, or alpha h B^T; rounded once.
template <class T>
void thin_update(Factor factor, const ThinShape& shape, double alpha, const float* h,
                 std::int64_t ldh, const float* values, T* x, std::int64_t ldx,
                 std::vector<float>& scratch);
/// sum += alpha h^T x, which is (R, F), or alpha x^T h, (F, R); rows of the sum are `ldsum` apart.
template <class T>
void thin_sum(Factor factor, const ThinShape& shape, double alpha, const float* h, std::int64_t ldh,
              const T* x, std::int64_t ldx, float* sum, std::int64_t ldsum,
              std::vector<float>& scratch);

}  // namespace tailor::peft
