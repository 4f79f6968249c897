// S sequences with equally many new tokens, R new tokens of each, T tokens of all; B blocks of P
// positions, C positions of the longest sequence's blocks; N query heads in K groups of G.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_put.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <limits>
#include <map>
#include <vector>

#include "models/kernels/plain.hpp"

namespace tailor::models::kernels::plain {
namespace {

using Numbers = std::vector<std::int64_t>;

at::Tensor on(at::Device device, const Numbers& numbers) {
  return at::tensor(numbers, at::kLong).to(device, at::kLong, /*non_blocking=*/true);
}

void put(const at::Tensor& rows_TKH, const at::Tensor& blocks_BKPH, const at::Tensor& block_T,
         const at::Tensor& place_T) {
  auto by_place_BPKH = blocks_BKPH.transpose(1, 2);
  c10::List<std::optional<at::Tensor>> index;
  index.push_back(block_T);
  index.push_back(place_T);
  at::index_put_(by_place_BPKH, index, rows_TKH.to(blocks_BKPH.scalar_type()));
}

/// Sequences of one length of new tokens, as tables.
struct Together {
  Numbers rows;                 // of q, R a sequence
  Numbers starts;               // cached positions before the new tokens
  std::vector<Numbers> blocks;  // of each, filled up with block 0
};

Together tables(std::span<const CachedSequence* const> sequences) {
  Together out;
  std::size_t most = 0;
  for (const auto* s : sequences) most = std::max(most, s->blocks.size());
  for (const auto* s : sequences) {
    for (std::int64_t t = 0; t < s->count; ++t) out.rows.push_back(s->begin + t);
    out.starts.push_back(s->start);
    out.blocks.emplace_back(s->blocks.begin(), s->blocks.end());
    out.blocks.back().resize(most, 0);
  }
  return out;
}

/// (S, K, C, H) of every sequence's blocks, in float32.
at::Tensor cached(const at::Tensor& x_BKPH, const at::Tensor& block_SB) {
  return x_BKPH.index_select(0, block_SB.flatten())
      .unflatten(0, block_SB.sizes())
      .transpose(1, 2)
      .flatten(2, 3)
      .to(at::kFloat);
}

void attend(const at::Tensor& q_TNH, const CacheBlocks& cache,
            std::span<const CachedSequence* const> sequences, double scale, at::Tensor& out_TNH) {
  const auto device = q_TNH.device();
  const auto count = static_cast<std::int64_t>(sequences.size()), rows = sequences.front()->count;
  const auto all = tables(sequences);
  Numbers flat;
  for (const auto& blocks : all.blocks) flat.insert(flat.end(), blocks.begin(), blocks.end());
  const auto block_SB = on(device, flat).view({count, -1});
  const auto row_T = on(device, all.rows), start_S = on(device, all.starts);

  const auto groups = cache.keys_BKPH.size(1);
  const auto k_SKCH = cached(cache.keys_BKPH, block_SB);
  const auto position_C = at::arange(k_SKCH.size(2), start_S.options());
  // What nothing was written to yet may be anything, NaN too.
  const auto unwritten_SC = position_C >= (start_S + rows).unsqueeze(1);
  const auto v_SKCH =
      cached(cache.values_BKPH, block_SB).masked_fill(unwritten_SC.unsqueeze(1).unsqueeze(-1), 0.0);
  const auto q_SKLH = q_TNH.index_select(0, row_T)
                          .to(at::kFloat)
                          .view({count, rows, groups, -1, q_TNH.size(2)})
                          .permute({0, 2, 3, 1, 4})
                          .flatten(2, 3);
  const auto last_SR = start_S.unsqueeze(1) + at::arange(rows, start_S.options());
  const auto hidden_SRC = position_C > last_SR.unsqueeze(-1);
  auto scores_SKGRC =
      at::matmul(q_SKLH, k_SKCH.transpose(2, 3)).mul_(scale).unflatten(2, {-1, rows});
  scores_SKGRC.masked_fill_(hidden_SRC.unsqueeze(1).unsqueeze(1),
                            -std::numeric_limits<double>::infinity());
  const auto out_SKLH = at::matmul(scores_SKGRC.softmax(-1).flatten(2, 3), v_SKCH);
  const auto out_SRNH = out_SKLH.unflatten(2, {-1, rows}).permute({0, 3, 1, 2, 4});
  out_TNH.index_copy_(
      0, row_T,
      out_SRNH.reshape({count * rows, q_TNH.size(1), q_TNH.size(2)}).to(out_TNH.scalar_type()));
}

}  // namespace

void append_to_cache(const at::Tensor& k_TKH, const at::Tensor& v_TKH, const CacheBlocks& cache,
                     std::span<const CachedSequence> sequences) {
  Numbers rows, blocks, places;
  const auto block_size = cache.keys_BKPH.size(2);
  for (const auto& s : sequences)
    for (std::int64_t t = 0; t < s.count; ++t) {
      const auto position = s.start + t;
      rows.push_back(s.begin + t);
      blocks.push_back(s.blocks[static_cast<std::size_t>(position / block_size)]);
      places.push_back(position % block_size);
    }
  const auto device = k_TKH.device();
  const auto row_T = on(device, rows), block_T = on(device, blocks), place_T = on(device, places);
  put(k_TKH.index_select(0, row_T), cache.keys_BKPH, block_T, place_T);
  put(v_TKH.index_select(0, row_T), cache.values_BKPH, block_T, place_T);
}

at::Tensor cached_attention(const at::Tensor& q_TNH, const CacheBlocks& cache,
                            std::span<const CachedSequence> sequences, double scale) {
  std::map<std::int64_t, std::vector<const CachedSequence*>> by_count;
  for (const auto& s : sequences)
    if (s.count > 0) by_count[s.count].push_back(&s);
  auto out_TNH = at::empty(q_TNH.sizes(), q_TNH.options());
  for (const auto& [count, together] : by_count) attend(q_TNH, cache, together, scale, out_TNH);
  return out_TNH;
}

}  // namespace tailor::models::kernels::plain
