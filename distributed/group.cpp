#include "distributed/group.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <utility>

#include "distributed/group_checks.hpp"

namespace tailor::distributed {
namespace {

at::Tensor with_rows(const at::Tensor& like, std::int64_t rows) {
  auto sizes = like.sizes().vec();
  sizes[0] = rows;
  return at::empty(sizes, like.options().requires_grad(false));
}

}  // namespace

bool Pending::ready() {
  if (work_ && work_->advance()) work_.reset();
  return work_ == nullptr;
}

void Pending::wait() {
  if (const auto work = std::exchange(work_, nullptr)) work->wait();
}

at::Tensor Group::all_gather(const at::Tensor& part) {
  check_has_rows("all_gather", part);
  auto whole = with_rows(part, part.size(0) * size());
  start_all_gather(whole, part).wait();
  return whole;
}

at::Tensor Group::all_to_all_v(const at::Tensor& rows, std::span<const std::int64_t> input_splits,
                               std::span<const std::int64_t> output_splits) {
  check_has_rows("all_to_all_v", rows);
  auto out = with_rows(rows, sum(output_splits));
  start_all_to_all_v(out, rows, input_splits, output_splits).wait();
  return out;
}

}  // namespace tailor::distributed
