// M rows of all experts, I in, O out.
#include "models/layers/grouped_linear.hpp"

#include <ATen/ops/stack.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <utility>

#include "models/kernels/grouped_gemm.hpp"

namespace tailor::models {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// What a product keeps for its gradient: the handles of the layers' weights.
using Siblings = std::vector<std::span<const kernels::Weight>>;

/// y[i]_e = x_e W[i]_e^T with every W frozen; dx is added up in place.
struct FrozenGroupedLinear : torch::autograd::Function<FrozenGroupedLinear> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x_MI,
                               std::span<const std::int64_t> row_offsets,
                               const Siblings& siblings) {
    std::vector<std::int64_t> handles;
    variable_list y;
    for (const auto& weights : siblings) {
      handles.push_back(reinterpret_cast<std::int64_t>(weights.data()));
      y.push_back(kernels::grouped_forward(x_MI, row_offsets, weights));
    }
    ctx->saved_data["weights"] = handles;
    ctx->saved_data["offsets"] = std::vector<std::int64_t>(row_offsets.begin(), row_offsets.end());
    return y;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    const auto handles = ctx->saved_data["weights"].toIntVector();
    const auto offsets = ctx->saved_data["offsets"].toIntVector();
    at::Tensor dx_MI;
    for (std::size_t i = 0; i < dy.size(); ++i) {
      const auto* weights = reinterpret_cast<const kernels::Weight*>(handles[i]);
      kernels::grouped_backward_(dx_MI, dy[i].contiguous(), offsets, {weights, offsets.size() - 1});
    }
    return {dx_MI, at::Tensor(), at::Tensor()};
  }
};

/// Makes them views of one tensor, as products of all experts at once take them; nothing where they
/// are views already, of whoever divides them among ranks.
void lay_together(std::vector<at::Tensor>& matrices) {
  if (matrices.size() < 2 || matrices.back().is_alias_of(matrices.front())) return;
  const auto together_EOI = at::stack(matrices);
  for (std::size_t e = 0; e < matrices.size(); ++e)
    matrices[e] = together_EOI.select(0, static_cast<std::int64_t>(e));
}

}  // namespace

void GroupedLinearBase::forward_siblings(const at::Tensor& x_MI,
                                         std::span<const std::int64_t> row_offsets,
                                         std::span<GroupedLinearBase* const> layers,
                                         std::span<at::Tensor> y) {
  for (std::size_t i = 0; i < layers.size(); ++i) y[i] = layers[i]->forward(x_MI, row_offsets);
}

void GroupedLinearSlot::walk(const std::string& path, const Visit& visit) {
  visit(path, *this);
  layer_->walk(path, visit);
}

GroupedDense::GroupedDense(std::string projection, std::int64_t in, std::int64_t out,
                           const ExpertRange& experts, const Sharding& sharding)
    : in_(in),
      out_(out),
      experts_(experts),
      sharding_(sharding),
      stored_(static_cast<std::size_t>(experts.count)) {
  using Dim = Sharding::Dim;
  const auto whole = sharding.dim == Dim::In ? in : out;
  TORCH_CHECK_VALUE(whole % sharding.count == 0, "experts: ", whole, " features of ", projection,
                    " in ", sharding.count, " equal parts");
  const auto length = whole / sharding.count;
  std::optional<Slice> slice;
  if (sharding.dim != Dim::None)
    slice = Slice{sharding.dim == Dim::In ? 1 : 0, sharding.index * length, length};
  for (std::int64_t e = 0; e < experts.count; ++e)
    add_parameter(std::to_string(experts.first + e) + '.' + projection + ".weight", {out, in},
                  stored_[static_cast<std::size_t>(e)], slice);
}

at::Tensor GroupedDense::forward(const at::Tensor& x_MI,
                                 std::span<const std::int64_t> row_offsets) {
  if (!x_MI.requires_grad()) return kernels::grouped_forward(x_MI, row_offsets, weights_);
  return FrozenGroupedLinear::apply(x_MI, row_offsets, Siblings{weights_})[0];
}

void GroupedDense::forward_siblings(const at::Tensor& x_MI,
                                    std::span<const std::int64_t> row_offsets,
                                    std::span<GroupedLinearBase* const> layers,
                                    std::span<at::Tensor> y) {
  const bool alike = std::all_of(layers.begin(), layers.end(), [](GroupedLinearBase* layer) {
    return dynamic_cast<GroupedDense*>(layer) != nullptr;
  });
  if (!alike || !x_MI.requires_grad())
    return GroupedLinearBase::forward_siblings(x_MI, row_offsets, layers, y);
  Siblings siblings;
  for (const auto* layer : layers) siblings.push_back(layer->weights());
  const auto answers = FrozenGroupedLinear::apply(x_MI, row_offsets, siblings);
  std::copy(answers.begin(), answers.end(), y.begin());
}

std::int64_t GroupedDense::in_features() const {
  return sharding_.dim == Sharding::Dim::In ? in_ / sharding_.count : in_;
}

std::int64_t GroupedDense::out_features() const {
  return sharding_.dim == Sharding::Dim::Out ? out_ / sharding_.count : out_;
}

void GroupedDense::finish_loading(kernels::Arithmetic arithmetic) {
  weights_.clear();
  if (!stored_.front().is_cpu()) lay_together(stored_);
  for (const auto& tensor : stored_) weights_.emplace_back(tensor, arithmetic);
}

}  // namespace tailor::models
