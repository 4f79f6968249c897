#include "trainer/cli/devices.hpp"

namespace tailor::trainer::cli {

Accelerators accelerators() { return {.built_with_cuda = false, .runtime = "", .devices = {}}; }

}  // namespace tailor::trainer::cli
