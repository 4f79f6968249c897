#include "models/files/safetensors_dtype.hpp"

#include <array>

namespace tailor::models {
namespace {

struct Entry {
  std::string_view word;
  at::ScalarType dtype;
};

constexpr std::array kDtypes = {
    Entry{"F64", at::kDouble},
    Entry{"F32", at::kFloat},
    Entry{"F16", at::kHalf},
    Entry{"BF16", at::kBFloat16},
    Entry{"F8_E4M3", at::kFloat8_e4m3fn},
    Entry{"F8_E5M2", at::kFloat8_e5m2},
    Entry{"F8_E8M0", at::kFloat8_e8m0fnu},
    Entry{"C64", at::kComplexFloat},
    Entry{"I64", at::kLong},
    Entry{"I32", at::kInt},
    Entry{"I16", at::kShort},
    Entry{"I8", at::kChar},
    Entry{"U64", at::kUInt64},
    Entry{"U32", at::kUInt32},
    Entry{"U16", at::kUInt16},
    Entry{"U8", at::kByte},
    Entry{"BOOL", at::kBool},
};

}  // namespace

std::optional<at::ScalarType> dtype_named(std::string_view word) {
  for (const Entry& entry : kDtypes) {
    if (entry.word == word) return entry.dtype;
  }
  return {};
}

std::string_view dtype_word(at::ScalarType dtype) {
  for (const Entry& entry : kDtypes) {
    if (entry.dtype == dtype) return entry.word;
  }
  return {};
}

}  // namespace tailor::models
