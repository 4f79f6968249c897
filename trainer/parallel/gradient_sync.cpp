#include "trainer/parallel/gradient_sync.hpp"

#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <memory>
#include <string_view>
#include <utility>

#include "trainer/parallel/l2_norm.hpp"

namespace tailor::trainer {
namespace {

using distributed::Reduce;

/// 12 of "model.layers.12.self_attn.q_proj.lora_A.weight"; 0 of a name without a number.
std::int64_t layer_of(std::string_view name) {
  while (!name.empty()) {
    const auto part = name.substr(0, name.find('.'));
    std::int64_t number = 0;
    const auto end = part.data() + part.size();
    if (!part.empty() && std::from_chars(part.data(), end, number).ptr == end) return number;
    name.remove_prefix(std::min(part.size() + 1, name.size()));
  }
  return 0;
}

}  // namespace

GradientSync::GradientSync(const distributed::Mesh& mesh, std::vector<Bucket> buckets)
    : mesh_(mesh), buckets_(std::move(buckets)) {}

GradientSync::GradientSync(const distributed::Mesh& mesh,
                           const std::vector<peft::Trainable>& trainables,
                           std::int64_t bucket_elements)
    : mesh_(mesh) {
  for (const auto& trainable : trainables) {
    const auto placement = placement_of(trainable);
    const auto layer = layer_of(trainable.name);
    if (buckets_.empty() || buckets_.back().placement != placement ||
        buckets_.back().num_elements >= bucket_elements)
      buckets_.push_back({.placement = placement, .lowest_layer = layer});
    auto& bucket = buckets_.back();
    bucket.num_elements += trainable.value.numel();
    bucket.num_parameters += 1;
    bucket.lowest_layer = std::min(bucket.lowest_layer, layer);
  }
}

double GradientSync::norm(const at::Tensor& gradients) const {
  double total = 0.0;
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < buckets_.size();) {
    const auto placement = buckets_[i].placement;
    std::int64_t num_elements = 0;
    for (; i < buckets_.size() && buckets_[i].placement == placement; ++i)
      num_elements += buckets_[i].num_elements;
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

struct GradientReduction::Part {
  Placement placement;
  at::Tensor gradients;
  std::int64_t lowest_layer = 0;
  std::size_t first_parameter = 0, num_parameters = 0;
  std::size_t num_missing = 0;  // gradients that the last backward has not made yet
  distributed::Pending pending;
};

/// Counts a parameter's gradient, once backward has added to it. libtorch 2.14 has no public call
/// for this: a tensor has one place for such a hook, and a second one takes it.
class GradientReduction::Watch final : public torch::autograd::PostAccumulateGradHook {
 public:
  Watch(GradientReduction& owner, std::size_t part) : owner_(owner), part_(part) {}
  void operator()(const torch::autograd::Variable&) override { owner_.note(part_); }

 private:
  GradientReduction& owner_;
  std::size_t part_;
};

GradientReduction::GradientReduction(const GradientSync& sync, std::vector<at::Tensor> parameters,
                                     at::Tensor gradients)
    : sync_(sync), parameters_(std::move(parameters)) {
  if (sync.mesh().sizes.data() == 1 && sync.mesh().sizes.tp == 1) return;  // nothing to add
  std::int64_t begin = 0;
  std::size_t parameter = 0;
  for (const auto& bucket : sync.buckets()) {
    parts_.push_back({.placement = bucket.placement,
                      .gradients = gradients.narrow(0, begin, bucket.num_elements),
                      .lowest_layer = bucket.lowest_layer,
                      .first_parameter = parameter,
                      .num_parameters = bucket.num_parameters,
                      .num_missing = bucket.num_parameters});
    begin += bucket.num_elements;
    parameter += bucket.num_parameters;
  }
  TORCH_INTERNAL_ASSERT(parameter == parameters_.size() && begin == gradients.numel());
  std::ranges::stable_sort(parts_, std::ranges::greater{}, &Part::lowest_layer);
  for (std::size_t i = 0; i < parts_.size(); ++i)
    for (std::size_t k = 0; k < parts_[i].num_parameters; ++k)
      torch::autograd::impl::set_post_acc_grad_hooks(parameters_[parts_[i].first_parameter + k],
                                                     std::make_unique<Watch>(*this, i));
}

GradientReduction::~GradientReduction() {
  if (parts_.empty()) return;
  for (const auto& parameter : parameters_)
    torch::autograd::impl::set_post_acc_grad_hooks(parameter, nullptr);
}

void GradientReduction::run(bool last, const std::function<void()>& backward) {
  TORCH_INTERNAL_ASSERT(!is_last_, "a backward behind the last one of a step");
  is_last_ = last;
  backward();
  if (last) begin_rest();
}

void GradientReduction::note(std::size_t part) {
  if (!is_last_) return;
  TORCH_INTERNAL_ASSERT(parts_[part].num_missing > 0);
  parts_[part].num_missing -= 1;
  while (num_begun_ < parts_.size() && parts_[num_begun_].num_missing == 0)
    begin(parts_[num_begun_]);
  // MPI moves data only inside calls, and nothing else in backward advances these.
  for (std::size_t i = 0; i < num_begun_; ++i) static_cast<void>(parts_[i].pending.ready());
}

void GradientReduction::begin_rest() {
  while (num_begun_ < parts_.size()) begin(parts_[num_begun_]);
}

void GradientReduction::begin(Part& part) {
  num_begun_ += 1;
  const auto& mesh = sync_.mesh();
  if (!part.placement.tensor_part) mesh.tp->all_reduce(part.gradients, Reduce::Sum);
  auto& replicas = part.placement.expert_part ? *mesh.dp : *mesh.data;
  part.pending = replicas.start_all_reduce(part.gradients, Reduce::Sum);
}

void GradientReduction::wait() {
  begin_rest();
  for (auto& part : parts_) part.pending.wait();
}

}  // namespace tailor::trainer
