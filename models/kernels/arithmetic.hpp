#pragma once

#include <c10/core/ScalarType.h>

#include <string>

namespace tailor::models::kernels {

/// What multiplies. Storage is a dtype of its own: bfloat16 weights are computed with in either.
///   Float32:  activations and products float32; bfloat16 weights are widened (kernels/weight.hpp).
///   BFloat16: activations bfloat16, products bfloat16 with float32 accumulation. Only where the
///             processor multiplies bfloat16: elsewhere libtorch falls to 0.3 to 24 GFLOP/s.
enum class Arithmetic { Float32, BFloat16 };

/// dtype of the activations.
constexpr c10::ScalarType activation_dtype(Arithmetic arithmetic) {
  return arithmetic == Arithmetic::BFloat16 ? c10::ScalarType::BFloat16 : c10::ScalarType::Float;
}

/// AVX-512 BF16 or AMX: the processor multiplies bfloat16.
bool has_bf16_products();

/// The one place of the choice: BFloat16 for bfloat16 storage where has_bf16_products(), else
/// Float32.
Arithmetic best_arithmetic(c10::ScalarType stored);

/// For `doctor` and the log: "bfloat16 products, float32 accumulation (AMX)", ...
std::string describe(Arithmetic arithmetic);

}  // namespace tailor::models::kernels
