#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>
#include <cstring>

// Vectors of floats for bodies that are compiled once an instruction set: everything is inlined
// into a caller with [[gnu::target]], so nothing here is code of its own. Results go through
// references: returning a vector wider than the default target's registers would warn (-Wpsabi).

namespace tailor::models::kernels {

template <int kLanes>
struct Vectors {
  using Float [[gnu::vector_size(kLanes * 4)]] = float;
  using Bits [[gnu::vector_size(kLanes * 4)]] = std::uint32_t;
  using HalfBits [[gnu::vector_size(kLanes * 2)]] = std::uint16_t;
};
template <int kLanes>
using Lanes = typename Vectors<kLanes>::Float;

template <int kLanes>
[[gnu::always_inline]] inline void load(const float* from, Lanes<kLanes>& to) {
  std::memcpy(&to, from, sizeof(to));
}

/// bfloat16 is the upper half of a float.
template <int kLanes>
[[gnu::always_inline]] inline void load(const c10::BFloat16* from, Lanes<kLanes>& to) {
  typename Vectors<kLanes>::HalfBits half;
  std::memcpy(&half, from, sizeof(half));
  const auto bits = __builtin_convertvector(half, typename Vectors<kLanes>::Bits) << 16;
  std::memcpy(&to, &bits, sizeof(to));
}

template <int kLanes>
[[gnu::always_inline]] inline float sum(const Lanes<kLanes>& v) {
  if constexpr (kLanes == 16) {
    const Lanes<8> half = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                          __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
    return sum<8>(half);
  } else if constexpr (kLanes == 8) {
    const Lanes<4> half =
        __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
    return sum<4>(half);
  } else {
    static_assert(kLanes == 4);
    const Lanes<4> pairs = v + __builtin_shufflevector(v, v, 2, 3, 0, 1);
    return pairs[0] + pairs[1];
  }
}

/// The sums of 16 vectors of 16, each with the bits of sum<16>(): out[4 a + b] = sum(v[4 b + a]).
/// With a quarter of the shuffles.
[[gnu::always_inline]] inline void transposed_sums(const Lanes<16> (&v)[16], Lanes<16>& out) {
  Lanes<16> halves[8];  // of two vectors each, what is left of them side by side
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const auto &a = v[2 * i], &b = v[2 * i + 1];
    halves[i] =
        __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
        __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  }
  Lanes<16> quarters[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const auto &a = halves[2 * i], &b = halves[2 * i + 1];
    quarters[i] =
        __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
        __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  }
  Lanes<16> pairs[2];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const auto &a = quarters[2 * i], &b = quarters[2 * i + 1];
    pairs[i] =
        __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
        __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  }
  const auto &a = pairs[0], &b = pairs[1];
  out = __builtin_shufflevector(a, b, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30) +
        __builtin_shufflevector(a, b, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31);
}

/// Rounded to nearest, as c10::BFloat16(float).
template <int kLanes>
[[gnu::always_inline]] inline void store(const Lanes<kLanes>& v, c10::BFloat16* to) {
  using Bits = typename Vectors<kLanes>::Bits;
  Bits bits;
  std::memcpy(&bits, &v, sizeof(bits));
  const Bits rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  const auto half = __builtin_convertvector((v == v) ? rounded : Bits{} + 0x7FC0,
                                            typename Vectors<kLanes>::HalfBits);
  std::memcpy(to, &half, sizeof(half));
}

/// e^x for x <= 0, relative error below 2e-7: x = n ln 2 + r, Taylor to r^6 on |r| <= ln 2 / 2.
/// Below -87 the result is 0 where e^x is at most 1.7e-38.
template <int kLanes>
[[gnu::always_inline]] inline void exp_negative(Lanes<kLanes>& x) {
  using Int [[gnu::vector_size(kLanes * 4)]] = std::int32_t;
  const Lanes<kLanes> clamped = x < -87.0F ? Lanes<kLanes>{} - 87.0F : x;
  // Adding and subtracting 1.5 * 2^23 rounds to an integer.
  const Lanes<kLanes> shifted = clamped * 1.44269504F + 12582912.0F;
  const Lanes<kLanes> n = shifted - 12582912.0F;
  const Lanes<kLanes> r = (clamped - n * 0.693359375F) + n * 2.12194440e-4F;
  Lanes<kLanes> p = r * (1.0F / 720) + 1.0F / 120;
  p = p * r + 1.0F / 24;
  p = p * r + 1.0F / 6;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const Int exponent = (__builtin_convertvector(n, Int) + 127) << 23;
  Lanes<kLanes> power;
  std::memcpy(&power, &exponent, sizeof(power));
  const Lanes<kLanes> result = p * power;
  x = x < -87.0F ? Lanes<kLanes>{} : result;
}

}  // namespace tailor::models::kernels
