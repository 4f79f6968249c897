// Loads and stores of float32 and bfloat16 rows as float32 lanes, for kernels that Highway compiles
// once an instruction set. Included inside foreach_target, hence the toggled guard.
#if defined(TAILOR_SIMD_INL_HPP) == defined(HWY_TARGET_TOGGLE)
#ifdef TAILOR_SIMD_INL_HPP
#undef TAILOR_SIMD_INL_HPP
#else
#define TAILOR_SIMD_INL_HPP
#endif

#include <c10/util/BFloat16.h>
#include <hwy/highway.h>

#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace tailor::models::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
using VFloats = hn::Vec<Floats>;

HWY_INLINE VFloats load(Floats d, const float* p) { return hn::LoadU(d, p); }
HWY_INLINE VFloats load(Floats d, const c10::BFloat16* p) {
  const hn::Rebind<std::uint16_t, Floats> d16;
  const hn::RebindToUnsigned<Floats> d32;
  const auto bits = hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(p));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, bits)));
}

HWY_INLINE void store(Floats d, VFloats v, float* p) { hn::StoreU(v, d, p); }
/// Rounds to nearest even; a NaN stays one.
HWY_INLINE void store(Floats /*d*/, VFloats v, c10::BFloat16* p) {
  const hn::Rebind<std::uint16_t, Floats> d16;
  const hn::RebindToUnsigned<Floats> d32;
  const hn::RebindToSigned<Floats> di32;
  const auto bits = hn::BitCast(d32, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7FFF))));
  const auto is_nan = hn::RebindMask(d32, hn::IsNaN(v));
  const auto safe = hn::IfThenElse(is_nan, hn::Set(d32, 0x7FC0), rounded);
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di32, safe)), d16, reinterpret_cast<std::uint16_t*>(p));
}

/// Calls many(i) for whole vectors of a row, then one(i), its scalar twin, for each element left.
template <class Many, class One>
HWY_INLINE void for_row(Floats d, std::int64_t size, const Many& many, const One& one) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + lanes <= size; i += lanes) many(i);
  for (; i < size; ++i) one(i);
}

}  // namespace tailor::models::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
