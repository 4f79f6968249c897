#include "distributed/reduce_parts.hpp"

#include <ATen/ops/maximum.h>

namespace tailor::distributed {

void reduce_parts(const at::Tensor& parts_RN, Reduce op, const at::Tensor& out_N) {
  const auto dtype = parts_RN.scalar_type();
  const bool narrow = dtype == at::kHalf || dtype == at::kBFloat16;
  auto result = narrow ? parts_RN[0].to(at::kFloat) : out_N;
  if (!narrow) result.copy_(parts_RN[0]);
  for (std::int64_t r = 1; r < parts_RN.size(0); ++r) {
    if (op == Reduce::Sum) {
      result.add_(parts_RN[r]);
    } else {
      at::maximum_out(result, result, narrow ? parts_RN[r].to(at::kFloat) : parts_RN[r]);
    }
  }
  if (narrow) out_N.copy_(result);
}

}  // namespace tailor::distributed
