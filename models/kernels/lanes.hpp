#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>
#include <cstring>
#include <utility>

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

/// In pieces of 2 kHalf lanes, of a and then of b: the first half plus the second, side by side.
template <int kHalf, int... i>
[[gnu::always_inline]] inline void fold(const Lanes<16>& a, const Lanes<16>& b, Lanes<16>& out,
                                        std::integer_sequence<int, i...>) {
  out = __builtin_shufflevector(a, b, (i / kHalf * 2 * kHalf + i % kHalf)...) +
        __builtin_shufflevector(a, b, (i / kHalf * 2 * kHalf + i % kHalf + kHalf)...);
}

/// v[0][i] becomes the sum of v[i], with the bits of sum<16>(): vectors are folded two by two,
/// which takes half of the shuffles and a quarter of the additions.
template <int kHalf = 8>
[[gnu::always_inline]] inline void fold_sums(Lanes<16> (&v)[16]) {
#pragma GCC unroll 8
  for (int i = 0; i < kHalf; ++i)
    fold<kHalf>(v[2 * i], v[2 * i + 1], v[i], std::make_integer_sequence<int, 16>());
  if constexpr (kHalf > 1) fold_sums<kHalf / 2>(v);
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
