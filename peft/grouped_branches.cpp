// M rows of all experts, I in, O out, F of either, E experts, R rank of one projection, S ranks of
// all, stacked.
#include "peft/grouped_branches.hpp"

#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <atomic>

#include "peft/plain_branches.hpp"
#include "peft/thin_products.hpp"

namespace tailor::peft {
namespace {

/// A factor's memory; worker threads may not touch tensors.
struct FactorRows {
  const float* values;
  std::int64_t stride;  // between experts; 0: shared

  explicit FactorRows(const at::Tensor& factor)
      : values(factor.const_data_ptr<float>()), stride(factor.dim() == 3 ? factor.stride(0) : 0) {}
  const float* of(std::int64_t expert) const { return values + expert * stride; }
};

/// Tasks go to whichever thread is free: experts differ in rows. Each writes what no other does.
template <class Task>
void each_task(std::size_t num_tasks, const Task& task) {
  std::atomic<std::size_t> next{0};
  const auto num_threads =
      std::min<std::int64_t>(at::get_num_threads(), static_cast<std::int64_t>(num_tasks));
  at::parallel_for(0, num_threads, /*grain_size=*/1, [&](std::int64_t, std::int64_t) {
    std::vector<float> scratch;
    for (auto i = next.fetch_add(1); i < num_tasks; i = next.fetch_add(1)) task(i, scratch);
  });
}

/// Rows of one expert that fit a thread's cache.
struct Block {
  std::int64_t expert, begin, rows;
};
constexpr std::int64_t kBlockRows = 128;

std::vector<Block> blocks_of(std::span<const std::int64_t> offsets) {
  std::vector<Block> blocks;
  for (std::size_t e = 0; e + 1 < offsets.size(); ++e)
    for (auto begin = offsets[e]; begin < offsets[e + 1]; begin += kBlockRows)
      blocks.push_back(
          {static_cast<std::int64_t>(e), begin, std::min(kBlockRows, offsets[e + 1] - begin)});
  return blocks;
}

/// One projection without tensors.
template <class T>
struct RawBranch {
  FactorRows A, B;
  T* rows;  // y, or dy; null: none
  std::int64_t width, rank, begin;
  double scale;

  RawBranch(const Branch& branch, T* values)
      : A(branch.A),
        B(branch.B),
        rows(values),
        width(branch.B.size(-2)),
        rank(branch.rank()),
        begin(branch.begin),
        scale(branch.scale) {}
};

template <class T>
void add_branches(const at::Tensor& x_MI, std::span<const std::int64_t> offsets,
                  std::span<const Branch> branches, at::Tensor& h_MS, std::span<at::Tensor> y) {
  std::vector<RawBranch<T>> raw;
  for (std::size_t i = 0; i < branches.size(); ++i)
    raw.emplace_back(branches[i], y[i].mutable_data_ptr<T>());
  const auto* x = x_MI.const_data_ptr<T>();
  auto* h = h_MS.mutable_data_ptr<float>();
  const auto in = x_MI.size(1), ranks = h_MS.size(1);
  const auto blocks = blocks_of(offsets);
  each_task(blocks.size(), [&](std::size_t task, std::vector<float>& scratch) {
    const auto [e, begin, rows] = blocks[task];
    for (const auto& branch : raw) {
      auto* const part = h + begin * ranks + branch.begin;
      thin_product(Factor::A, {rows, in, branch.rank}, 1.0, x + begin * in, in, branch.A.of(e),
                   part, ranks, scratch);
      thin_update(Factor::B, {rows, branch.width, branch.rank}, branch.scale, part, ranks,
                  branch.B.of(e), branch.rows + begin * branch.width, branch.width, scratch);
    }
  });
}

template <class T>
void lower_branches(std::span<const std::int64_t> offsets, std::span<const Branch> branches,
                    std::span<const at::Tensor> dy, at::Tensor& dh_MS, at::Tensor& dx_MI) {
  std::vector<RawBranch<const T>> raw;
  for (std::size_t i = 0; i < branches.size(); ++i)
    if (dy[i].defined()) raw.emplace_back(branches[i], dy[i].const_data_ptr<T>());
  auto* const dh = dh_MS.mutable_data_ptr<float>();
  auto* const dx = dx_MI.defined() ? dx_MI.mutable_data_ptr<T>() : nullptr;
  const auto in = branches.front().A.size(-1), ranks = dh_MS.size(1);
  const auto blocks = blocks_of(offsets);
  each_task(blocks.size(), [&](std::size_t task, std::vector<float>& scratch) {
    const auto [e, begin, rows] = blocks[task];
    for (const auto& branch : raw) {
      auto* const part = dh + begin * ranks + branch.begin;
      thin_product(Factor::B, {rows, branch.width, branch.rank}, branch.scale,
                   branch.rows + begin * branch.width, branch.width, branch.B.of(e), part, ranks,
                   scratch);
      if (dx != nullptr)
        thin_update(Factor::A, {rows, in, branch.rank}, 1.0, part, ranks, branch.A.of(e),
                    dx + begin * in, in, scratch);
    }
  });
}

/// Columns of one gradient: a sum over the rows of one expert, or over all where it is shared.
struct SumTask {
  Factor factor;
  const float* thin;
  std::int64_t ranks;
  const void* rows;  // of float or BFloat16
  double scale;
  std::int64_t features, rank, begin_row, end_row, begin, width;
  float* out;
};

void add_tasks(std::vector<SumTask>& tasks, std::span<const std::int64_t> offsets,
               const FactorSum& sum) {
  constexpr std::int64_t kWidth = 512;
  const bool shared = sum.gradient.dim() == 2;
  const auto groups = shared ? 1 : sum.gradient.size(0);
  const auto features = sum.gradient.size(sum.of_A ? -1 : -2);
  const auto rank = sum.gradient.size(sum.of_A ? -2 : -1);
  auto* const values = sum.gradient.mutable_data_ptr<float>();
  for (std::int64_t e = 0; e < groups; ++e) {
    const auto first = shared ? 0 : offsets[static_cast<std::size_t>(e)];
    const auto last = shared ? offsets.back() : offsets[static_cast<std::size_t>(e) + 1];
    if (first == last) continue;
    for (std::int64_t begin = 0; begin < features; begin += kWidth)
      tasks.push_back({.factor = sum.of_A ? Factor::A : Factor::B,
                       .thin = sum.thin_MS.const_data_ptr<float>() + sum.begin,
                       .ranks = sum.thin_MS.size(1),
                       .rows = sum.rows_MF.const_data_ptr(),
                       .scale = sum.scale,
                       .features = features,
                       .rank = rank,
                       .begin_row = first,
                       .end_row = last,
                       .begin = begin,
                       .width = std::min(kWidth, features - begin),
                       .out = values + e * features * rank + begin * (sum.of_A ? 1 : rank)});
  }
}

template <class T>
void run(const std::vector<SumTask>& tasks) {
  each_task(tasks.size(), [&](std::size_t i, std::vector<float>& scratch) {
    const auto& task = tasks[i];
    const auto* values = static_cast<const T*>(task.rows);
    for (auto row = task.begin_row; row < task.end_row; row += kBlockRows)
      thin_sum(task.factor, {std::min(kBlockRows, task.end_row - row), task.width, task.rank},
               task.scale, task.thin + row * task.ranks, task.ranks,
               values + row * task.features + task.begin, task.features, task.out,
               task.factor == Factor::A ? task.features : task.rank, scratch);
  });
}

}  // namespace

void add_branches_(const at::Tensor& x_MI, std::span<const std::int64_t> offsets,
                   std::span<const Branch> branches, at::Tensor& h_MS, std::span<at::Tensor> y) {
  if (!x_MI.is_cpu()) return plain::add_branches_(x_MI, offsets, branches, h_MS, y);
  if (x_MI.scalar_type() == at::kBFloat16) {
    add_branches<c10::BFloat16>(x_MI, offsets, branches, h_MS, y);
  } else {
    add_branches<float>(x_MI, offsets, branches, h_MS, y);
  }
}

void lower_branches_(std::span<const std::int64_t> offsets, std::span<const Branch> branches,
                     std::span<const at::Tensor> dy, at::Tensor& dh_MS, at::Tensor& dx_MI) {
  const auto used = std::ranges::find_if(dy, [](const auto& part) { return part.defined(); });
  if (used == dy.end()) return;
  if (!used->is_cpu()) return plain::lower_branches_(offsets, branches, dy, dh_MS, dx_MI);
  if (used->scalar_type() == at::kBFloat16) {
    lower_branches<c10::BFloat16>(offsets, branches, dy, dh_MS, dx_MI);
  } else {
    lower_branches<float>(offsets, branches, dy, dh_MS, dx_MI);
  }
}

void add_sums_(std::span<const std::int64_t> offsets, std::span<const FactorSum> sums) {
  if (sums.empty()) return;
  if (!sums.front().rows_MF.is_cpu()) return plain::add_sums_(offsets, sums);
  std::vector<SumTask> tasks;
  for (const auto& sum : sums) add_tasks(tasks, offsets, sum);
  if (sums.front().rows_MF.scalar_type() == at::kBFloat16) {
    run<c10::BFloat16>(tasks);
  } else {
    run<float>(tasks);
  }
}

}  // namespace tailor::peft
