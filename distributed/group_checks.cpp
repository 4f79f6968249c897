#include "distributed/group_checks.hpp"

#include <c10/util/Exception.h>

#include <algorithm>
#include <numeric>

namespace tailor::distributed {

std::int64_t sum(std::span<const std::int64_t> numbers) {
  return std::accumulate(numbers.begin(), numbers.end(), std::int64_t{0});
}

void check_has_rows(const std::string& call, const at::Tensor& tensor) {
  TORCH_CHECK_VALUE(tensor.dim() > 0, call, ": a tensor without dimensions has no rows");
}

void check_peer(const std::string& call, const Group& group, int peer) {
  TORCH_CHECK_VALUE(peer >= 0 && peer < group.size(), call, ": there is no rank ", peer,
                    " in a group of ", group.size());
}

void check_other(const std::string& call, const Group& group, int peer) {
  check_peer(call, group, peer);
  TORCH_CHECK_VALUE(peer != group.rank(), call, ": a rank does not message itself");
}

void check_reducible(const std::string& call, const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
    case at::kDouble:
    case at::kHalf:
    case at::kBFloat16:
    case at::kInt:
    case at::kLong:
      return;
    default:
      TORCH_CHECK_VALUE(false, call, ": no arithmetic on ", tensor.scalar_type());
  }
}

void check_color(const std::string& call, int color) {
  TORCH_CHECK_VALUE(color >= 0, call, ": color ", color, " is negative");
}

void check_rows(const std::string& call, const at::Tensor& whole, const at::Tensor& part,
                std::int64_t rows) {
  check_has_rows(call, whole);
  check_has_rows(call, part);
  TORCH_CHECK_VALUE(whole.scalar_type() == part.scalar_type(), call, ": dtypes ",
                    whole.scalar_type(), " and ", part.scalar_type(), " differ");
  TORCH_CHECK_VALUE(whole.size(0) == rows && whole.sizes().slice(1) == part.sizes().slice(1), call,
                    ": a result of shape ", whole.sizes(), " for ", rows, " rows as of ",
                    part.sizes());
}

void check_splits(const std::string& call, const Group& group, const char* what,
                  std::span<const std::int64_t> splits, std::int64_t rows) {
  TORCH_CHECK_VALUE(static_cast<int>(splits.size()) == group.size(), call, ": ", splits.size(), " ",
                    what, " for ", group.size(), " ranks");
  TORCH_CHECK_VALUE(std::all_of(splits.begin(), splits.end(), [](auto n) { return n >= 0; }), call,
                    ": ", what, " have a negative entry");
  TORCH_CHECK_VALUE(sum(splits) == rows, call, ": ", what, " sum to ", sum(splits),
                    ", the tensor has ", rows, " rows");
}

std::int64_t rows_a_rank(const std::string& call, const Group& group, std::int64_t rows) {
  TORCH_CHECK_VALUE(rows % group.size() == 0, call, ": ", rows, " rows do not divide among ",
                    group.size(), " ranks");
  return rows / group.size();
}

}  // namespace tailor::distributed
