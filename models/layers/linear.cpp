// T tokens, I in, O out.
#include "models/layers/linear.hpp"

#include <c10/util/Exception.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

namespace tailor::models {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// y = x W^T + b with W frozen: keeps nothing but the handle of W, and makes no gradient for it.
struct FrozenLinear : torch::autograd::Function<FrozenLinear> {
  using Answer = std::function<at::Tensor()>;  // by which y is made, or known

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& /*x_TI*/,
                            const kernels::Weight* weight, const Answer& answer) {
    ctx->saved_data["weight"] = reinterpret_cast<std::int64_t>(weight);
    return answer();
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    const auto* weight =
        reinterpret_cast<const kernels::Weight*>(ctx->saved_data["weight"].toInt());
    at::Tensor dx_TI;
    weight->backward_(dx_TI, dy[0].contiguous());
    return {dx_TI, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

void LinearBase::forward_siblings(const at::Tensor& x_TI, std::span<LinearBase* const> layers,
                                  std::span<at::Tensor> y) {
  for (std::size_t i = 0; i < layers.size(); ++i)
    y[i] = y[i].defined() ? layers[i]->forward_known(x_TI, y[i]) : layers[i]->forward(x_TI);
}

at::Tensor LinearBase::forward_known(const at::Tensor& /*x_TI*/, at::Tensor /*y_TO*/) {
  TORCH_CHECK_VALUE(false, "linear: this kind of layer takes no known answers");
}

void LinearSlot::walk(const std::string& path, const Visit& visit) {
  visit(path, *this);
  layer_->walk(path, visit);
}

Dense::Dense(std::int64_t in, std::int64_t out, bool with_bias)
    : in_(in), out_(out), with_bias_(with_bias) {
  add_parameter("weight", {out, in}, stored_);
  if (with_bias) add_parameter("bias", {out}, stored_bias_);
}

Dense::Dense(const at::Tensor& shared_OI, kernels::Arithmetic arithmetic)
    : in_(shared_OI.size(1)),
      out_(shared_OI.size(0)),
      with_bias_(false),
      stored_(shared_OI),
      weight_(shared_OI, arithmetic) {}

void Dense::shard(const Sharding& sharding) {
  using Dim = Sharding::Dim;
  const auto whole = sharding.dim == Dim::In ? in_ : out_;
  TORCH_CHECK_VALUE(whole % sharding.count == 0, "linear: ", whole, " features in ", sharding.count,
                    " equal parts");
  TORCH_CHECK_VALUE(!stored_.defined(), "linear: sharded behind loading");
  sharding_ = sharding;
  clear_parameters();
  const auto length = whole / sharding.count;
  const Slice slice{sharding.dim == Dim::In ? 1 : 0, sharding.index * length, length};
  const bool all = sharding.dim == Dim::None;
  add_parameter("weight", {out_, in_}, stored_, all ? std::nullopt : std::optional(slice));
  if (!with_bias_) return;
  if (sharding.dim == Dim::Out)
    add_parameter("bias", {out_}, stored_bias_, slice);
  else if (sharding.index == 0)
    add_parameter("bias", {out_}, stored_bias_);
}

std::int64_t Dense::in_features() const {
  return sharding_.dim == Sharding::Dim::In ? in_ / sharding_.count : in_;
}

std::int64_t Dense::out_features() const {
  return sharding_.dim == Sharding::Dim::Out ? out_ / sharding_.count : out_;
}

void Dense::finish_loading(kernels::Arithmetic arithmetic) {
  weight_ = kernels::Weight(stored_, arithmetic);
  if (stored_bias_.defined()) bias_ = stored_bias_.to(kernels::activation_dtype(arithmetic));
}

at::Tensor Dense::forward(const at::Tensor& x_TI) {
  if (!x_TI.requires_grad()) return weight_.forward(x_TI, bias_);
  return FrozenLinear::apply(x_TI, &weight_, [&] { return weight_.forward(x_TI, bias_); });
}

at::Tensor Dense::forward_known(const at::Tensor& x_TI, at::Tensor y_TO) {
  if (!x_TI.requires_grad()) return y_TO;
  return FrozenLinear::apply(x_TI, &weight_, [&] { return y_TO; });
}

std::shared_ptr<LinearBase> dense(std::int64_t in, std::int64_t out, bool with_bias) {
  return std::make_shared<Dense>(in, out, with_bias);
}

}  // namespace tailor::models
