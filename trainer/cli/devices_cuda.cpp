#include <ATen/Context.h>
#include <c10/cuda/CUDAFunctions.h>
#include <cuda_runtime_api.h>

#include "trainer/cli/devices.hpp"

namespace tailor::trainer::cli {

constexpr int kAmpere = 8;  // compute capability

Accelerators accelerators() {
  Accelerators out{.built_with_cuda = true, .runtime = "", .devices = {}, .usable = {}};
  int version = 0;
  if (cudaRuntimeGetVersion(&version) == cudaSuccess)
    out.runtime =
        "CUDA " + std::to_string(version / 1000) + '.' + std::to_string(version % 1000 / 10);
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) return out;  // no driver, or no device
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    out.devices.push_back(std::string(properties.name) + ", " +
                          std::to_string(properties.totalGlobalMem >> 30) + " GiB");
    if (properties.major >= kAmpere) out.usable.push_back(i);
  }
  return out;
}

void use_gpu(int index) {
  c10::cuda::set_device(static_cast<c10::DeviceIndex>(index));
  // Sums of products that are cut into parts stay float32 until the end.
  at::globalContext().setAllowBF16ReductionCuBLAS(/*allow_reduced_precision=*/false);
}

}  // namespace tailor::trainer::cli
