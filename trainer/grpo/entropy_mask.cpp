#include "trainer/grpo/entropy_mask.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/ge.h>
#include <ATen/ops/ne.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace tailor::trainer {

double entropy_threshold(const at::Tensor& entropies, double top_quantile) {
  const auto values = entropies.detach().to(at::kCPU, at::kDouble).contiguous();
  if (values.numel() == 0) return std::numeric_limits<double>::infinity();
  const auto* first = values.const_data_ptr<double>();
  std::vector<double> sorted(first, first + values.numel());
  std::sort(sorted.begin(), sorted.end());
  const auto place = (1.0 - top_quantile) * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const auto above = std::min(below + 1, sorted.size() - 1);
  return std::lerp(sorted[below], sorted[above], place - static_cast<double>(below));
}

at::Tensor high_entropy_mask(const at::Tensor& entropies_S, const at::Tensor& mask_S,
                             double threshold) {
  return (entropies_S.detach().to(at::kDouble) >= threshold)
      .logical_and(mask_S != 0)
      .to(at::kFloat);
}

}  // namespace tailor::trainer
