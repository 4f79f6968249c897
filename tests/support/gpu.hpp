#pragma once

#include <c10/cuda/CUDAFunctions.h>

#include <catch2/catch.hpp>

namespace tailor::tests {

/// Whether a GPU answers; says that the test is left out where none does.
inline bool has_gpu() {
  const bool found = c10::cuda::device_count() > 0;
  if (!found) WARN("left out: no GPU");
  return found;
}

}  // namespace tailor::tests
