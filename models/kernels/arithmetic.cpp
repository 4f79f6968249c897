#include "models/kernels/arithmetic.hpp"

namespace tailor::models::kernels {
namespace {

bool has_amx() {
#ifdef __x86_64__
  unsigned a = 7, b = 0, c = 0, d = 0;
  asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  return (d & (1U << 22)) != 0 && __builtin_cpu_supports("avx512f");  // amx_bf16
#else
  return false;
#endif
}

bool has_avx512_bf16() {
#ifdef __x86_64__
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

}  // namespace

bool has_bf16_products() { return has_avx512_bf16() || has_amx(); }

Arithmetic best_arithmetic(c10::ScalarType stored) {
  return stored == c10::ScalarType::BFloat16 && has_bf16_products() ? Arithmetic::BFloat16
                                                                    : Arithmetic::Float32;
}

std::string describe(Arithmetic arithmetic) {
  if (arithmetic == Arithmetic::Float32) return "float32 products";
  return std::string("bfloat16 products, float32 accumulation (") +
         (has_amx() ? "AMX" : "AVX-512 BF16") + ')';
}

}  // namespace tailor::models::kernels
