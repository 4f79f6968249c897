#pragma once

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <vector>

namespace tailor::models::kernels {

/// Instruction sets that kernels compiled once a set choose from at run time, smallest first; each
/// includes those before it.
enum class Isa { Portable, Avx2, Avx512, Avx512Bf16, Amx };

/// AMX with bfloat16: the processor has it and the system lets this process use its tiles.
inline bool has_amx_tiles() {
  static const bool found = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
    constexpr unsigned kBf16 = 1U << 22, kTile = 1U << 24;
    if ((d & kBf16) == 0 || (d & kTile) == 0) return false;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return found;
}

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
    if (!__builtin_cpu_supports("avx512bf16")) return isas;
    isas.push_back(Isa::Avx512Bf16);
    if (has_amx_tiles()) isas.push_back(Isa::Amx);
    return isas;
  }();
  return found;
}

}  // namespace tailor::models::kernels
