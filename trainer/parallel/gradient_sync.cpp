#include "trainer/parallel/gradient_sync.hpp"

#include <ATen/ops/zeros.h>

#include <cmath>
#include <utility>

#include "trainer/parallel/l2_norm.hpp"

namespace tailor::trainer {

using distributed::Reduce;

GradientSync::GradientSync(const distributed::Mesh& mesh, std::vector<Segment> segments)
    : mesh_(mesh), segments_(std::move(segments)) {}

GradientSync::GradientSync(const distributed::Mesh& mesh,
                           const std::vector<peft::Trainable>& trainables)
    : mesh_(mesh) {
  for (const auto& trainable : trainables) {
    const auto placement = placement_of(trainable);
    if (segments_.empty() || segments_.back().placement != placement)
      segments_.push_back({.placement = placement});
    segments_.back().num_elements += trainable.value.numel();
  }
}

void GradientSync::reduce(at::Tensor& gradients) const {
  std::int64_t begin = 0;
  for (const auto& [placement, num_elements] : segments_) {
    auto part = gradients.narrow(0, begin, num_elements);
    begin += num_elements;
    if (!placement.tensor_part) mesh_.tp->all_reduce(part, Reduce::Sum);
    auto& replicas = placement.expert_part ? *mesh_.dp : *mesh_.data;
    replicas.all_reduce(part, Reduce::Sum);
  }
}

double GradientSync::norm(const at::Tensor& gradients) const {
  double total = 0.0;
  std::int64_t begin = 0;
  for (const auto& [placement, num_elements] : segments_) {
    const auto part = l2_norm(gradients.narrow(0, begin, num_elements));
    begin += num_elements;
    auto square = at::zeros({1}, at::kDouble);
    auto& value = *square.mutable_data_ptr<double>();
    value = part * part;
    if (placement.tensor_part) mesh_.tp->all_reduce(square, Reduce::Sum);
    if (placement.expert_part) mesh_.ep->all_reduce(square, Reduce::Sum);
    total += value;
  }
  auto square = at::zeros({1}, at::kDouble);
  auto& value = *square.mutable_data_ptr<double>();
  value = total;
  mesh_.pp->all_reduce(square, Reduce::Sum);
  return std::sqrt(value);
}

}  // namespace tailor::trainer
