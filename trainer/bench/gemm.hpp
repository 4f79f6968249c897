#pragma once

#include <vector>

#include "models/kernels/arithmetic.hpp"

namespace tailor::trainer {

/// Speed of one matrix product (tokens, in) x (out, in)^T.
struct GemmSpeed {
  std::int64_t tokens, in, out;
  bool tiled;     // kernels/tiled_gemm, which some processors prefer; else libtorch
  double gflops;  // 10^9 floating-point operations a second, a multiply-add counting two
};

/// Products of the sizes that fine-tuning a small model makes, and a large square one; each the
/// median of several runs on the threads that are set, by libtorch and, for float32, tiled.
std::vector<GemmSpeed> measure_gemm(models::kernels::Arithmetic arithmetic);

/// The fastest of them: what the machine reaches, the measure of every share of the peak.
double peak_gflops(const std::vector<GemmSpeed>& speeds);

/// Bytes a second at which all threads together read memory that no cache holds.
double measure_read_bandwidth();

}  // namespace tailor::trainer
