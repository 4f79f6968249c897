// M rows of all experts, I in, O out.
#include "models/layers/grouped_linear.hpp"

#include <c10/util/Exception.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

#include "models/kernels/grouped_gemm.hpp"

namespace tailor::models {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// y_e = x_e W_e^T with every W_e frozen: keeps nothing but the handle of the weights.
struct FrozenGroupedLinear : torch::autograd::Function<FrozenGroupedLinear> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_MI,
                            std::span<const std::int64_t> row_offsets,
                            std::span<const kernels::Weight> weights) {
    ctx->saved_data["weights"] = reinterpret_cast<std::int64_t>(weights.data());
    ctx->saved_data["offsets"] = std::vector<std::int64_t>(row_offsets.begin(), row_offsets.end());
    return kernels::grouped_forward(x_MI, row_offsets, weights);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    const auto* weights =
        reinterpret_cast<const kernels::Weight*>(ctx->saved_data["weights"].toInt());
    const auto offsets = ctx->saved_data["offsets"].toIntVector();
    at::Tensor dx_MI;
    kernels::grouped_backward_(dx_MI, dy[0].contiguous(), offsets, {weights, offsets.size() - 1});
    return {dx_MI, at::Tensor(), at::Tensor()};
  }
};

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
  return FrozenGroupedLinear::apply(x_MI, row_offsets, std::span<const kernels::Weight>(weights_));
}

std::int64_t GroupedDense::in_features() const {
  return sharding_.dim == Sharding::Dim::In ? in_ / sharding_.count : in_;
}

std::int64_t GroupedDense::out_features() const {
  return sharding_.dim == Sharding::Dim::Out ? out_ / sharding_.count : out_;
}

void GroupedDense::finish_loading(kernels::Arithmetic arithmetic) {
  weights_.clear();
  for (const auto& tensor : stored_) weights_.emplace_back(tensor, arithmetic);
}

}  // namespace tailor::models
