#pragma once

#include <cstdint>

#include "peft/dropout_mask.hpp"

struct CUstream_st;

namespace tailor::peft::cuda {

/// drop_() of x (tokens, in) over raw memory of one GPU, enqueued on `stream`. T is float, double
/// or c10::BFloat16.
template <class T>
void drop(T* x, std::int64_t tokens, std::int64_t in, const DropoutMask& mask, CUstream_st* stream);

}  // namespace tailor::peft::cuda
