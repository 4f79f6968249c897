#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

namespace tailor::peft {

/// The thin side of grouped projections of one input: passes over blocks of rows, shared by
/// threads; outside host memory as plain_branches.hpp says. Nothing here is differentiated. Rows of
/// expert e are offsets[e] up to offsets[e + 1].
struct Branch {
  at::Tensor A, B;  // (E, R, I) and (E, O, R), or without E where all experts share it; float32
  double scale;
  std::int64_t begin;  // its R columns of h
  std::int64_t rank() const { return A.size(-2); }
};

/// h = x A^T into h (M, S), and y[i] += s h B^T. x and y float32 or bfloat16, h float32.
void add_branches_(const at::Tensor& x_MI, std::span<const std::int64_t> offsets,
                   std::span<const Branch> branches, at::Tensor& h_MS, std::span<at::Tensor> y);
/// dh = s dy B into dh (M, S) and, where dx is defined, dx += dh A. An undefined dy counts as none.
void lower_branches_(std::span<const std::int64_t> offsets, std::span<const Branch> branches,
                     std::span<const at::Tensor> dy, at::Tensor& dh_MS, at::Tensor& dx_MI);

/// A gradient of a factor, zeros to begin with: dA += dh^T x, or dB += s dy^T h, of the rows of
/// each expert, or of all where the factor is shared.
struct FactorSum {
  at::Tensor gradient;  // of the factor's shape
  bool of_A;
  at::Tensor thin_MS;  // dh, or h
  std::int64_t begin;  // the first column of it
  at::Tensor rows_MF;  // x, or dy
  double scale;        // 1, or s
};
void add_sums_(std::span<const std::int64_t> offsets, std::span<const FactorSum> sums);

}  // namespace tailor::peft
