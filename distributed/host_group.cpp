#include "distributed/host_group.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>

#include <cstring>
#include <utility>

#include "distributed/chain.hpp"
#include "distributed/group_checks.hpp"
#include "distributed/reduce_parts.hpp"

namespace tailor::distributed {
namespace {

constexpr std::int64_t kDirectBytes = 64 << 10;  // up to here one step with more bytes is faster

void check_host(const std::string& call, const at::Tensor& tensor) {
  TORCH_CHECK_VALUE(tensor.is_cpu(), call, ": a tensor on ", tensor.device(),
                    " in a group over host memory");
}

std::string signature_of(const at::Tensor& tensor, const std::string& what) {
  return c10::str(what, " of ", tensor.numel(), " ", c10::toString(tensor.scalar_type()));
}

/// As even a division of `count` as there is.
std::vector<std::int64_t> even_splits(std::int64_t count, int size) {
  std::vector<std::int64_t> out;
  for (std::int64_t r = 0; r < size; ++r) out.push_back(count * (r + 1) / size - count * r / size);
  return out;
}

}  // namespace

HostGroup::HostGroup(int rank, int size, std::string name, const GroupOptions& options)
    : rank_(rank),
      size_(size),
      name_(std::move(name)),
      options_(options),
      num_sent_(static_cast<std::size_t>(size)),
      num_received_(static_cast<std::size_t>(size)) {}

Pending HostGroup::start_all_reduce(at::Tensor& tensor, Reduce op) {
  const at::NoGradGuard no_grad;
  check_reducible("all_reduce", tensor);
  check_host("all_reduce", tensor);
  const auto call =
      begin("all_reduce", signature_of(tensor, op == Reduce::Sum ? "(sum)" : "(max)"));
  if (size_ == 1 || tensor.numel() == 0) return {};
  const auto whole = tensor.contiguous();
  const auto flat = whole.view({-1});
  std::vector<Chain::Step> steps;
  if (static_cast<std::int64_t>(flat.nbytes()) <= kDirectBytes) {
    const auto parts_RN = at::empty({size_, flat.numel()}, flat.options());
    steps.emplace_back([this, call, flat, parts_RN] {
      return gather(call, bytes_of(flat), writable_bytes_of(parts_RN), {flat, parts_RN});
    });
    steps.emplace_back([parts_RN, op, flat]() -> std::unique_ptr<Work> {
      reduce_parts(parts_RN, op, flat);
      return nullptr;
    });
  } else {
    const auto splits = even_splits(flat.numel(), size_);
    const auto own_size = splits[static_cast<std::size_t>(rank_)];
    const auto own = flat.narrow(0, flat.numel() * rank_ / size_, own_size);
    const auto parts_RN = at::empty({size_, own_size}, flat.options());
    const std::vector<std::int64_t> received(static_cast<std::size_t>(size_), own_size);
    steps.emplace_back([=, this] {
      parts_RN[rank_].copy_(own);
      return exchange(call, sources(flat, splits), targets(parts_RN.view({-1}), received),
                      {flat, parts_RN});
    });
    steps.emplace_back([=, this] {
      reduce_parts(parts_RN, op, own);
      return exchange({call.text, call.sequence, 1},
                      std::vector<Source>(static_cast<std::size_t>(size_), bytes_of(own)),
                      targets(flat, splits), {flat});
    });
  }
  if (!tensor.is_contiguous()) {
    steps.emplace_back([tensor, whole]() -> std::unique_ptr<Work> {
      tensor.copy_(whole);
      return nullptr;
    });
  }
  return run(std::move(steps));
}

void HostGroup::broadcast(at::Tensor& tensor, int root) {
  const at::NoGradGuard no_grad;
  check_peer("broadcast", *this, root);
  check_host("broadcast", tensor);
  const auto call = begin("broadcast", signature_of(tensor, c10::str("(root ", root, ")")));
  if (size_ == 1 || tensor.numel() == 0) return;
  const auto whole = tensor.contiguous();
  broadcast(call, writable_bytes_of(whole), root, {whole})->wait();
  if (!tensor.is_contiguous() && rank_ != root) tensor.copy_(whole);
}

Pending HostGroup::start_all_gather(at::Tensor& whole, const at::Tensor& part) {
  const at::NoGradGuard no_grad;
  check_has_rows("all_gather", part);
  check_rows("all_gather", whole, part, part.size(0) * size_);
  check_host("all_gather", part);
  check_host("all_gather", whole);
  const auto call = begin("all_gather", signature_of(part, ""));
  const auto in = part.contiguous();
  const auto out = whole.is_contiguous() ? whole : at::empty(whole.sizes(), in.options());
  const std::vector<std::int64_t> splits(static_cast<std::size_t>(size_), part.size(0));
  auto own = out.narrow(0, rank_ * part.size(0), part.size(0));
  if (own.const_data_ptr() != in.const_data_ptr()) own.copy_(in);
  std::vector<Chain::Step> steps;
  steps.emplace_back([=, this] {
    return exchange(call, std::vector<Source>(static_cast<std::size_t>(size_), bytes_of(own)),
                    targets(out, splits), {out});
  });
  if (!whole.is_contiguous()) {
    steps.emplace_back([whole, out]() -> std::unique_ptr<Work> {
      whole.copy_(out);
      return nullptr;
    });
  }
  return run(std::move(steps));
}

at::Tensor HostGroup::all_gather_v(const at::Tensor& part, std::span<const std::int64_t> rows) {
  const at::NoGradGuard no_grad;
  check_has_rows("all_gather_v", part);
  check_splits("all_gather_v", *this, "rows", rows, sum(rows));
  TORCH_CHECK_VALUE(part.size(0) == rows[static_cast<std::size_t>(rank_)],
                    "all_gather_v: ", part.size(0), " rows where ",
                    rows[static_cast<std::size_t>(rank_)], " were announced");
  check_host("all_gather_v", part);
  auto sizes = part.sizes().vec();
  sizes[0] = sum(rows);
  auto out = at::empty(sizes, part.options().requires_grad(false));
  const auto call = begin("all_gather_v", signature_of(out, ""));
  const auto before = sum(rows.first(static_cast<std::size_t>(rank_)));
  const auto own = out.narrow(0, before, part.size(0));
  own.copy_(part);
  exchange(call, std::vector<Source>(static_cast<std::size_t>(size_), bytes_of(own)),
           targets(out, rows), {out})
      ->wait();
  return out;
}

at::Tensor HostGroup::reduce_scatter(const at::Tensor& whole) {
  const at::NoGradGuard no_grad;
  check_has_rows("reduce_scatter", whole);
  check_reducible("reduce_scatter", whole);
  check_host("reduce_scatter", whole);
  auto sizes = whole.sizes().vec();
  sizes[0] = rows_a_rank("reduce_scatter", *this, whole.size(0));
  const auto call = begin("reduce_scatter", signature_of(whole, ""));
  const auto in = whole.contiguous();
  const std::vector<std::int64_t> splits(static_cast<std::size_t>(size_), sizes[0]);
  const auto parts = at::empty(whole.sizes(), in.options().requires_grad(false));
  parts.narrow(0, rank_ * sizes[0], sizes[0]).copy_(in.narrow(0, rank_ * sizes[0], sizes[0]));
  exchange(call, sources(in, splits), targets(parts, splits), {in, parts})->wait();
  auto out = at::empty(sizes, parts.options());
  if (out.numel() > 0) reduce_parts(parts.view({size_, -1}), Reduce::Sum, out.view({-1}));
  return out;
}

Pending HostGroup::start_all_to_all_v(at::Tensor& out, const at::Tensor& rows,
                                      std::span<const std::int64_t> input_splits,
                                      std::span<const std::int64_t> output_splits) {
  const at::NoGradGuard no_grad;
  check_has_rows("all_to_all_v", rows);
  check_rows("all_to_all_v", out, rows, sum(output_splits));
  check_splits("all_to_all_v", *this, "input splits", input_splits, rows.size(0));
  check_splits("all_to_all_v", *this, "output splits", output_splits, out.size(0));
  check_host("all_to_all_v", rows);
  check_host("all_to_all_v", out);
  const auto self = static_cast<std::size_t>(rank_);
  TORCH_CHECK_VALUE(input_splits[self] == output_splits[self], "all_to_all_v: rank ", rank_,
                    " sends itself ", input_splits[self], " rows and expects ",
                    output_splits[self]);
  const auto row =
      c10::str("rows of shape ", rows.sizes().slice(1), ", ", c10::toString(rows.scalar_type()));
  const auto call = begin("all_to_all_v", " of " + row);
  compare_splits(call, input_splits, output_splits);
  const auto in = rows.contiguous();
  const auto landing = out.is_contiguous() ? out : at::empty(out.sizes(), in.options());
  landing.narrow(0, sum(output_splits.first(self)), output_splits[self])
      .copy_(in.narrow(0, sum(input_splits.first(self)), input_splits[self]));
  std::vector<Chain::Step> steps;
  steps.emplace_back([this, call, in, landing, from = sources(in, input_splits),
                      to = targets(landing, output_splits)] {
    return exchange(call, from, to, {in, landing});
  });
  if (!out.is_contiguous()) {
    steps.emplace_back([out, landing]() -> std::unique_ptr<Work> {
      out.copy_(landing);
      return nullptr;
    });
  }
  return run(std::move(steps));
}

Pending HostGroup::start_send(const at::Tensor& tensor, int to) {
  const at::NoGradGuard no_grad;
  check_other("send", *this, to);
  check_host("send", tensor);
  const auto call = message("send", "to", to, ++num_sent_[static_cast<std::size_t>(to)]);
  std::vector<Chain::Step> steps;
  steps.emplace_back(
      [this, call, to, in = tensor.contiguous()] { return send(call, bytes_of(in), to, {in}); });
  return run(std::move(steps));
}

Pending HostGroup::start_recv(at::Tensor& tensor, int from) {
  const at::NoGradGuard no_grad;
  check_other("recv", *this, from);
  check_host("recv", tensor);
  const auto call = message("recv", "from", from, ++num_received_[static_cast<std::size_t>(from)]);
  const auto out = tensor.is_contiguous() ? tensor : at::empty(tensor.sizes(), tensor.options());
  std::vector<Chain::Step> steps;
  steps.emplace_back(
      [this, call, from, out] { return recv(call, writable_bytes_of(out), from, {out}); });
  if (!tensor.is_contiguous()) {
    steps.emplace_back([tensor, out]() -> std::unique_ptr<Work> {
      tensor.copy_(out);
      return nullptr;
    });
  }
  return run(std::move(steps));
}

void HostGroup::barrier() {
  const auto call = begin("barrier", "");
  if (size_ == 1) return;
  const auto all = at::empty({size_ + 1}, at::kByte);
  gather(call, bytes_of(all).last(1), writable_bytes_of(all).first(static_cast<std::size_t>(size_)),
         {all})
      ->wait();
}

std::unique_ptr<Group> HostGroup::split(int color, const std::string& name) {
  check_color("split", color);
  const auto call = begin("split", "");
  auto colors = at::empty({size_ + 1}, at::kInt);
  auto* data = colors.mutable_data_ptr<int>();
  data[size_] = color;
  if (size_ == 1) {
    data[0] = color;
  } else {
    const auto all = writable_bytes_of(colors);
    gather(call, all.last(sizeof(int)), all.first(all.size() - sizeof(int)), {colors})->wait();
  }
  std::vector<int> members;
  int rank = 0;
  for (int r = 0; r < size_; ++r) {
    if (data[r] != color) continue;
    if (r == rank_) rank = static_cast<int>(members.size());
    members.push_back(r);
  }
  return make_part({call.text, call.sequence, 1}, color, rank, members, name);
}

std::unique_ptr<Pending::Work> HostGroup::gather(const Call& call, Source part, Target whole,
                                                 Held held) {
  std::vector<Target> to;
  to.reserve(static_cast<std::size_t>(size_));
  for (int r = 0; r < size_; ++r)
    to.push_back(whole.subspan(static_cast<std::size_t>(r) * part.size(), part.size()));
  std::memcpy(to[static_cast<std::size_t>(rank_)].data(), part.data(), part.size());
  const std::vector<Source> from(to.size(), part);
  return exchange(call, from, std::move(to), std::move(held));
}

std::vector<HostGroup::Target> HostGroup::targets(const at::Tensor& tensor,
                                                  std::span<const std::int64_t> splits) {
  std::vector<Target> out;
  const auto rows = tensor.size(0);
  const auto row_bytes = rows == 0 ? 0 : tensor.nbytes() / static_cast<std::size_t>(rows);
  auto rest = writable_bytes_of(tensor);
  for (const auto split : splits) {
    out.push_back(rest.first(static_cast<std::size_t>(split) * row_bytes));
    rest = rest.subspan(out.back().size());
  }
  return out;
}

std::vector<HostGroup::Source> HostGroup::sources(const at::Tensor& tensor,
                                                  std::span<const std::int64_t> splits) {
  const auto writable = targets(tensor, splits);
  return {writable.begin(), writable.end()};
}

}  // namespace tailor::distributed
