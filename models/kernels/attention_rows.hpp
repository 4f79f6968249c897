#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

namespace tailor::models::kernels {

// What block attention does to a row of scores, for float32 and bfloat16 neighbours; `n` keys, of
// which the query sees the first `seen`. Each runs on the calling thread.
//   softmax_row:  p[j] = exp(score[j] - top), 0 beyond `seen`; sum of p, and top, the largest
//   score. gradient_row: p[j] = exp(score[j] - log_sum), ds[j] = scale p[j] (dp[j] - dot), 0 beyond
//   `seen`. dot_row:      sum of a[i] b[i], in float32. narrow_row:   y = factor x in y's dtype.

void softmax_row(const float* score, std::int64_t seen, std::int64_t n, float* p, float* sum,
                 float* top);
void gradient_row(const float* score, const float* dp, float log_sum, float dot, float scale,
                  std::int64_t seen, std::int64_t n, float* p, float* ds);
float dot_row(const float* a, const float* b, std::int64_t size);
void narrow_row(const float* x, float factor, std::int64_t size, float* y);

void softmax_row(const float* score, std::int64_t seen, std::int64_t n, c10::BFloat16* p,
                 float* sum, float* top);
void gradient_row(const float* score, const float* dp, float log_sum, float dot, float scale,
                  std::int64_t seen, std::int64_t n, c10::BFloat16* p, c10::BFloat16* ds);
float dot_row(const c10::BFloat16* a, const c10::BFloat16* b, std::int64_t size);
void narrow_row(const float* x, float factor, std::int64_t size, c10::BFloat16* y);

}  // namespace tailor::models::kernels
