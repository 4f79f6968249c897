#pragma once

#include <cmath>

#ifdef __CUDACC__
#define TAILOR_HOST_DEVICE __host__ __device__
#else
#define TAILOR_HOST_DEVICE
#endif

/// What the kernels of this folder do with single numbers, in float32. Compiled for GPUs by nvcc
/// and for the host by tests.
namespace tailor::models::kernels::element {

TAILOR_HOST_DEVICE inline float sigmoid(float x) { return 1.0F / (1.0F + expf(-x)); }

TAILOR_HOST_DEVICE inline float swiglu(float gate, float up) { return gate * sigmoid(gate) * up; }

struct SwigluGradient {
  float gate, up;
};
TAILOR_HOST_DEVICE inline SwigluGradient swiglu_gradient(float dy, float gate, float up) {
  const float s = sigmoid(gate);
  return {dy * up * s * (1.0F + gate * (1.0F - s)), dy * gate * s};
}

struct Pair {
  float a, b;
};
/// (a, b) turned by an angle.
TAILOR_HOST_DEVICE inline Pair turned(Pair x, float cos, float sin) {
  return {x.a * cos - x.b * sin, x.b * cos + x.a * sin};
}

/// sum exp(x - top) over numbers seen one by one, top the largest of them (Milakov & Gimelshein
/// 2018, arXiv:1805.02867, algorithm 3).
struct SoftmaxSum {
  float top = -INFINITY, sum = 0.0F;

  TAILOR_HOST_DEVICE void add(float x) { merge({x, 1.0F}); }
  TAILOR_HOST_DEVICE void merge(const SoftmaxSum& other) {
    if (other.sum == 0.0F) return;  // of nothing: its top may be -infinity like this one's
    const float larger = fmaxf(top, other.top);
    sum = scaled(sum, top, larger) + scaled(other.sum, other.top, larger);
    top = larger;
  }
  TAILOR_HOST_DEVICE float log_sum() const { return logf(sum) + top; }

 private:
  /// -infinity less itself would be NaN.
  TAILOR_HOST_DEVICE static float scaled(float sum, float from, float to) {
    return from == to ? sum : sum * expf(from - to);
  }
};

}  // namespace tailor::models::kernels::element
