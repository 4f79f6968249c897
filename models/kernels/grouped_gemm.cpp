// M rows of all experts, I in, O out.
#include "models/kernels/grouped_gemm.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <type_traits>
#include <vector>

#include "models/kernels/each_expert.hpp"
#include "models/kernels/matvec.hpp"
#include "models/kernels/plain.hpp"
#include "models/kernels/small_gemm.hpp"

namespace tailor::models::kernels {
namespace {

/// Rows that one product is wanted to have, the fewer the fewer are left behind it, so that threads
/// end together; between these: packing the weight costs a fifth of the speed at 128 rows and
/// nothing at 512 (256 x 512 and 512 x 256, MKL).
constexpr std::int64_t kFewBlockRows = 128, kManyBlockRows = 512, kBlocksAThread = 2;

std::int64_t block_rows(std::int64_t rows_left) {
  return std::clamp(rows_left / (at::get_num_threads() * kBlocksAThread), kFewBlockRows,
                    kManyBlockRows);
}

void check(const at::Tensor& rows_MF, std::span<const std::int64_t> row_offsets,
           std::span<const Weight> weights) {
  TORCH_CHECK_VALUE(row_offsets.size() == weights.size() + 1 && row_offsets.front() == 0 &&
                        row_offsets.back() == rows_MF.size(0),
                    "grouped product: offsets of ", weights.size(),
                    " experts must run from 0 to M = ", rows_MF.size(0));
}

/// Rows of one expert, for one thread.
struct Block {
  at::Tensor weight_OI;
  std::int64_t begin, length;
};

/// Of an expert with rows begin ... begin + length - 1 of num_rows: equal blocks of 3/4 to 3/2 of
/// what is wanted, or one of all its rows if these are fewer. A small rest would be packed for as
/// much as a whole block.
void append_blocks(std::vector<Block>& blocks, const at::Tensor& weight_OI, std::int64_t begin,
                   std::int64_t length, std::int64_t num_rows) {
  const auto wanted = block_rows(num_rows - begin);
  const auto count = std::max<std::int64_t>(1, (length + wanted / 2) / wanted);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto from = length * i / count, to = length * (i + 1) / count;
    blocks.push_back({weight_OI, begin + from, to - from});
  }
}

/// Threads take the next block when they are done with one: experts are unequally busy. Every row
/// is written by one block, so that the outcome does not depend on who took it.
template <class Product>
void each_block(const std::vector<Block>& blocks, const Product& product) {
  std::atomic<std::size_t> next{0};
  at::parallel_for(0, at::get_num_threads(), 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto worker = begin; worker < end; ++worker) {
      for (auto i = next.fetch_add(1); i < blocks.size(); i = next.fetch_add(1)) product(blocks[i]);
    }
  });
}

/// Calls product(float rows, whether they hold the old values): the output itself where it is
/// float32, else a copy that is rounded once into it.
template <class T, class Product>
void into_rows(T* rows, std::int64_t size, bool add, const Product& product) {
  if constexpr (std::is_same_v<T, float>) {
    product(rows);
  } else {
    std::vector<float> exact(static_cast<std::size_t>(size));
    if (add) std::copy(rows, rows + size, exact.begin());
    product(exact.data());
    std::transform(exact.begin(), exact.end(), rows,
                   [](float value) { return static_cast<T>(value); });
  }
}

template <class T>
void forward_blocks(const std::vector<Block>& blocks, const at::Tensor& x_MI, at::Tensor& y_MO) {
  const auto in = x_MI.size(1), out = y_MO.size(1);
  const auto* x = x_MI.const_data_ptr<T>();
  auto* y = y_MO.mutable_data_ptr<T>();
  each_block(blocks, [&](const Block& b) {
    const auto* w = b.weight_OI.const_data_ptr<T>();
    into_rows(y + b.begin * out, b.length * out, /*add=*/false, [&](float* rows) {
      gemm_nt<T>(b.length, out, in, 1.0F, x + b.begin * in, in, w, in, 0.0F, rows, out);
    });
  });
}

template <class T>
void backward_blocks(const std::vector<Block>& blocks, const at::Tensor& dy_MO, at::Tensor& dx_MI,
                     bool add) {
  const auto in = dx_MI.size(1), out = dy_MO.size(1);
  const auto* dy = dy_MO.const_data_ptr<T>();
  auto* dx = dx_MI.mutable_data_ptr<T>();
  each_block(blocks, [&](const Block& b) {
    const auto* w = b.weight_OI.const_data_ptr<T>();
    into_rows(dx + b.begin * in, b.length * in, add, [&](float* rows) {
      gemm_nn<T>(b.length, in, out, 1.0F, dy + b.begin * out, out, w, in, add ? 1.0F : 0.0F, rows,
                 in);
    });
  });
}

}  // namespace

at::Tensor grouped_forward(const at::Tensor& x_MI, std::span<const std::int64_t> row_offsets,
                           std::span<const Weight> weights) {
  check(x_MI, row_offsets, weights);
  if (!x_MI.is_cpu()) return plain::grouped_forward(x_MI, row_offsets, weights);
  const auto x = x_MI.contiguous();
  auto y_MO = at::empty({x.size(0), weights.front().out_features()}, x.options());
  std::vector<Block> blocks;
  each_expert(row_offsets, [&](std::size_t e, std::int64_t begin, std::int64_t length) {
    const auto& weight = weights[e];
    if (length > kMatvecMaxTokens && weight.keeps_operand())
      append_blocks(blocks, weight.operand(), begin, length, x.size(0));
    else  // all threads at one expert
      y_MO.narrow(0, begin, length).copy_(weight.forward(x.narrow(0, begin, length)));
  });
  if (x.scalar_type() == at::kBFloat16)
    forward_blocks<c10::BFloat16>(blocks, x, y_MO);
  else
    forward_blocks<float>(blocks, x, y_MO);
  return y_MO;
}

void grouped_backward_(at::Tensor& dx_MI, const at::Tensor& dy_MO,
                       std::span<const std::int64_t> row_offsets, std::span<const Weight> weights) {
  check(dy_MO, row_offsets, weights);
  if (!dy_MO.is_cpu()) return plain::grouped_backward_(dx_MI, dy_MO, row_offsets, weights);
  const auto dy = dy_MO.contiguous();
  const bool add = dx_MI.defined();
  if (!add) dx_MI = at::empty({dy.size(0), weights.front().in_features()}, dy.options());
  TORCH_CHECK_VALUE(dx_MI.is_contiguous(), "grouped product: dx must be contiguous");
  std::vector<Block> blocks;
  each_expert(row_offsets, [&](std::size_t e, std::int64_t begin, std::int64_t length) {
    if (weights[e].keeps_operand())
      return append_blocks(blocks, weights[e].operand(), begin, length, dy.size(0));
    auto part = dx_MI.narrow(0, begin, length);
    if (!add) part.zero_();
    weights[e].backward_(part, dy.narrow(0, begin, length));
  });
  if (dy.scalar_type() == at::kBFloat16)
    backward_blocks<c10::BFloat16>(blocks, dy, dx_MI, add);
  else
    backward_blocks<float>(blocks, dy, dx_MI, add);
}

at::Tensor grouped_forward_reference(const at::Tensor& x_MI,
                                     std::span<const std::int64_t> row_offsets,
                                     std::span<const Weight> weights) {
  check(x_MI, row_offsets, weights);
  auto y_MO = at::empty({x_MI.size(0), weights.front().out_features()}, x_MI.options());
  each_expert(row_offsets, [&](std::size_t e, std::int64_t begin, std::int64_t length) {
    y_MO.narrow(0, begin, length).copy_(weights[e].forward(x_MI.narrow(0, begin, length)));
  });
  return y_MO;
}

}  // namespace tailor::models::kernels
