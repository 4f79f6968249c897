#include <c10/util/Exception.h>

#include "trainer/cli/devices.hpp"

namespace tailor::trainer::cli {

Accelerators accelerators() {
  return {.built_with_cuda = false, .runtime = "", .devices = {}, .usable = {}};
}

void use_gpu(int /*index*/) { TORCH_INTERNAL_ASSERT(false, "built without CUDA"); }

}  // namespace tailor::trainer::cli
