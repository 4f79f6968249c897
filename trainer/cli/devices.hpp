#pragma once

#include <string>
#include <vector>

namespace tailor::trainer::cli {

/// What this program can compute on besides the CPU. Answered by one of two files: with CUDA, or
/// without.
struct Accelerators {
  bool built_with_cuda;
  std::string runtime;               // "CUDA 13.0", "" without CUDA
  std::vector<std::string> devices;  // "NVIDIA H100, 80 GiB"; empty where none is present
  std::vector<int> usable;  // numbers of those that kernels are built for: Ampere and later
};
Accelerators accelerators();
/// Makes GPU `index` the one that this thread works on. Throws where the build has no CUDA.
void use_gpu(int index);

}  // namespace tailor::trainer::cli
