#include "trainer/parallel/l2_norm.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace tailor::trainer {

double l2_norm(const at::Tensor& flat) {
  TORCH_CHECK_VALUE(flat.dim() == 1 && flat.is_contiguous(), "l2_norm: need one flat tensor, got ",
                    flat.sizes());
  if (!flat.is_cpu())
    return at::linalg_vector_norm(flat, 2, {}, /*keepdim=*/false, at::kDouble).item<double>();
  constexpr std::int64_t kBlock = 16384;
  const auto* x = flat.const_data_ptr<float>();
  const auto size = flat.numel();
  std::vector<double> sums(static_cast<std::size_t>((size + kBlock - 1) / kBlock));
  at::parallel_for(0, static_cast<std::int64_t>(sums.size()), 8,
                   [&](std::int64_t begin, std::int64_t end) {
                     for (auto b = begin; b < end; ++b) {
                       double sum = 0.0;
                       const auto last = std::min(size, (b + 1) * kBlock);
                       for (auto i = b * kBlock; i < last; ++i)
                         sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
                       sums[static_cast<std::size_t>(b)] = sum;
                     }
                   });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return std::sqrt(total);
}

}  // namespace tailor::trainer
