#pragma once

#include <string>
#include <vector>

namespace tailor::trainer::cli {

/// What `doctor` says of accelerators. Answered by one of two files: with CUDA, or without.
struct Accelerators {
  bool built_with_cuda;
  std::string runtime;               // "CUDA 13.0", "" without CUDA
  std::vector<std::string> devices;  // "NVIDIA H100, 80 GiB"; empty where none is present
};
Accelerators accelerators();

}  // namespace tailor::trainer::cli
