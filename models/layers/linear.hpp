#pragma once

#include <array>
#include <concepts>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "models/kernels/weight.hpp"
#include "models/layers/module.hpp"

namespace tailor::models {

/// Maps x (T, I) to y (T, O). Dense, adapted, sharded and quantised layers derive from it.
class LinearBase : public Module {
 public:
  virtual at::Tensor forward(const at::Tensor& x_TI) = 0;
  /// forward() where its answer is there already, from the same weights and, up to rounding, the
  /// same input: nothing is multiplied, only the graph is built. `y_TO` is in no graph and becomes
  /// the answer. Throws ValueError where a layer has no such way.
  virtual at::Tensor forward_known(const at::Tensor& x_TI, at::Tensor y_TO);
  virtual const kernels::Weight& weight() const = 0;  // (O, I), this rank's shard, frozen
  virtual std::optional<at::Tensor> bias() const { return std::nullopt; }
  /// What is held here, known before loading; weight() has these sizes.
  virtual std::int64_t in_features() const = 0;
  virtual std::int64_t out_features() const = 0;
  virtual Sharding sharding() const { return {}; }
  /// Made ready for products with `arithmetic`, once its parameters are loaded.
  virtual void finish_loading(kernels::Arithmetic arithmetic) = 0;

  /// y[i] = layers[i](x); layers[0] is this one. Overridden where layers of one kind share work.
  /// Where the y[i] are defined on entry they are known, all of them, as for forward_known().
  virtual void forward_siblings(const at::Tensor& x_TI, std::span<LinearBase* const> layers,
                                std::span<at::Tensor> y);
};

/// The seat of one linear layer in a model. Adapters, tensor parallelism and quantised weights
/// re-seat it; forward() calls whatever sits there. A wrapper registers what it wraps with
/// add_child("", *inner), so that checkpoint keys do not change.
class LinearSlot final : public Module {
 public:
  using Wrap = std::function<std::shared_ptr<LinearBase>(std::shared_ptr<LinearBase>)>;

  explicit LinearSlot(std::shared_ptr<LinearBase> layer, Cut cut = {})
      : layer_(std::move(layer)), cut_(cut) {}
  LinearSlot() = default;  // to be filled by rewrap()

  at::Tensor operator()(const at::Tensor& x) const { return layer_->forward(x); }
  LinearBase& layer() const { return *layer_; }
  const Cut& cut() const { return cut_; }

  /// Seats wrap(current).
  void rewrap(const Wrap& wrap) { layer_ = wrap(layer_); }

 private:
  void walk(const std::string& path, const Visit& visit) override;

  std::shared_ptr<LinearBase> layer_;
  Cut cut_;
};

/// q_proj(x), k_proj(x), v_proj(x) in one call, so that adapted layers read x once.
template <std::same_as<LinearSlot>... Slots>
std::array<at::Tensor, sizeof...(Slots)> project(const at::Tensor& x, const Slots&... slots) {
  const std::array<LinearBase*, sizeof...(Slots)> layers{&slots.layer()...};
  std::array<at::Tensor, sizeof...(Slots)> y;
  layers.front()->forward_siblings(x, layers, y);
  return y;
}

/// A frozen dense layer; its parameters "weight" (out, in) and "bias" (out) are undefined until a
/// checkpoint is read.
class Dense final : public LinearBase {
 public:
  Dense(std::int64_t in, std::int64_t out, bool with_bias = false);
  /// Computes with a tensor that another module owns and has loaded: a tied output head.
  Dense(const at::Tensor& shared_OI, kernels::Arithmetic arithmetic);

  /// Keeps one part of the layer, before loading. Out: rows and their biases; In: columns, the bias
  /// with the first part alone, so that the parts' answers add up. Throws ValueError where the size
  /// is not divisible.
  void shard(const Sharding& sharding);

  at::Tensor forward(const at::Tensor& x_TI) override;
  at::Tensor forward_known(const at::Tensor& x_TI, at::Tensor y_TO) override;
  const kernels::Weight& weight() const override { return weight_; }
  std::optional<at::Tensor> bias() const override { return bias_; }
  std::int64_t in_features() const override;
  std::int64_t out_features() const override;
  Sharding sharding() const override { return sharding_; }
  void finish_loading(kernels::Arithmetic arithmetic) override;

 private:
  std::int64_t in_, out_;  // of the whole layer
  bool with_bias_;
  Sharding sharding_;
  at::Tensor stored_, stored_bias_;  // as in the file
  kernels::Weight weight_;
  std::optional<at::Tensor> bias_;
};

std::shared_ptr<LinearBase> dense(std::int64_t in, std::int64_t out, bool with_bias = false);

}  // namespace tailor::models
