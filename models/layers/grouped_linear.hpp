#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "models/kernels/weight.hpp"
#include "models/layers/module.hpp"

namespace tailor::models {

/// Experts first, ..., first + count - 1 of a layer.
struct ExpertRange {
  std::int64_t first = 0, count = 0;
};

/// One projection of all experts of a layer. Rows come sorted by expert: the rows of the e-th
/// expert held here are row_offsets[e] up to row_offsets[e + 1] of x; an expert may have none.
class GroupedLinearBase : public Module {
 public:
  /// x (M, I) -> y (M, O), row_offsets {0, ..., M} of experts().count + 1 entries.
  virtual at::Tensor forward(const at::Tensor& x_MI, std::span<const std::int64_t> row_offsets) = 0;
  /// (O, I) of every expert held here, frozen. Undefined before loading.
  virtual std::span<const kernels::Weight> weights() const = 0;
  /// Sizes of one expert's weight here; known before loading.
  virtual std::int64_t out_features() const = 0;
  virtual std::int64_t in_features() const = 0;
  virtual ExpertRange experts() const = 0;  // held here
  virtual Sharding sharding() const { return {}; }
  virtual void finish_loading(kernels::Arithmetic arithmetic) = 0;

  /// y[i] = layers[i](x); layers[0] is this one. Overridden where layers of one kind share work.
  virtual void forward_siblings(const at::Tensor& x_MI, std::span<const std::int64_t> row_offsets,
                                std::span<GroupedLinearBase* const> layers,
                                std::span<at::Tensor> y);
};

/// The seat of a grouped projection, as LinearSlot is that of a single one: adapters re-seat it. A
/// wrapper registers what it wraps with add_child("", *inner).
class GroupedLinearSlot final : public Module {
 public:
  using Wrap =
      std::function<std::shared_ptr<GroupedLinearBase>(std::shared_ptr<GroupedLinearBase>)>;

  /// `projection` is the last segment of the experts' keys: "gate_proj", "w1".
  GroupedLinearSlot(std::string projection, std::shared_ptr<GroupedLinearBase> layer)
      : projection_(std::move(projection)), layer_(std::move(layer)) {}

  at::Tensor operator()(const at::Tensor& x_MI, std::span<const std::int64_t> row_offsets) const {
    return layer_->forward(x_MI, row_offsets);
  }
  GroupedLinearBase& layer() const { return *layer_; }
  const std::string& projection() const { return projection_; }
  void rewrap(const Wrap& wrap) { layer_ = wrap(layer_); }

 private:
  void walk(const std::string& path, const Visit& visit) override;

  std::string projection_;
  std::shared_ptr<GroupedLinearBase> layer_;
};

/// Frozen weights of a range of experts, a parameter "<e>.<projection>.weight" (out, in) each:
/// checkpoints keep experts apart.
class GroupedDense final : public GroupedLinearBase {
 public:
  /// `in` and `out` are those of the whole projection, of which `sharding` keeps a part in every
  /// expert. Throws ValueError where the size is not divisible.
  GroupedDense(std::string projection, std::int64_t in, std::int64_t out,
               const ExpertRange& experts, const Sharding& sharding = {});

  at::Tensor forward(const at::Tensor& x_MI, std::span<const std::int64_t> row_offsets) override;
  /// Siblings of this kind add their gradients of x up in one place.
  void forward_siblings(const at::Tensor& x_MI, std::span<const std::int64_t> row_offsets,
                        std::span<GroupedLinearBase* const> layers,
                        std::span<at::Tensor> y) override;
  std::span<const kernels::Weight> weights() const override { return weights_; }
  std::int64_t out_features() const override;
  std::int64_t in_features() const override;
  ExpertRange experts() const override { return experts_; }
  Sharding sharding() const override { return sharding_; }
  void finish_loading(kernels::Arithmetic arithmetic) override;

 private:
  std::int64_t in_, out_;  // of the whole projection
  ExpertRange experts_;
  Sharding sharding_;
  std::vector<at::Tensor> stored_;  // as in the file
  std::vector<kernels::Weight> weights_;
};

}  // namespace tailor::models
