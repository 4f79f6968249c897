#pragma once

#include <vector>

namespace tailor::models::kernels {

/// Instruction sets that kernels compiled once a set choose from at run time, smallest first; each
/// includes those before it.
enum class Isa { Portable, Avx2, Avx512, Avx512Bf16 };

/// Those of this processor, in that order; Portable always.
inline const std::vector<Isa>& available_isas() {
  static const std::vector<Isa> found = [] {
    std::vector<Isa> isas{Isa::Portable};
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return isas;
    isas.push_back(Isa::Avx2);
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
      return isas;
    isas.push_back(Isa::Avx512);
    if (__builtin_cpu_supports("avx512bf16")) isas.push_back(Isa::Avx512Bf16);
    return isas;
  }();
  return found;
}

}  // namespace tailor::models::kernels
