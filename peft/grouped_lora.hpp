#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "models/layers/grouped_linear.hpp"
#include "peft/grouped_lora_function.hpp"
#include "peft/lora_config.hpp"

namespace tailor::peft {

/// One projection of a layer's routed experts with LoRA, those experts and that part of each that
/// are held here. Without dropout: an expert sees rows, not tokens, and PEFT has none there either.
class GroupedLoraLinear final : public models::GroupedLinearBase {
 public:
  /// `name` and `projection` are those of the seat: "model.layers.0.mlp.experts", "gate_proj".
  /// Factors are initialised from `seed` and the expert's path, or the seat's where they are
  /// shared, made whole and then cut. Throws ConfigError naming `place` for a rank above
  /// min(in, out), and where patterns give the experts of one seat different ranks or scales.
  GroupedLoraLinear(std::shared_ptr<models::GroupedLinearBase> inner, std::string name,
                    std::string projection, const LoraConfig& config, std::uint64_t seed,
                    const std::string& place);

  at::Tensor forward(const at::Tensor& x_MI, std::span<const std::int64_t> row_offsets) override;
  void forward_siblings(const at::Tensor& x_MI, std::span<const std::int64_t> row_offsets,
                        std::span<models::GroupedLinearBase* const> layers,
                        std::span<at::Tensor> y) override;
  std::span<const models::kernels::Weight> weights() const override { return inner_->weights(); }
  std::int64_t out_features() const override { return inner_->out_features(); }
  std::int64_t in_features() const override { return inner_->in_features(); }
  models::ExpertRange experts() const override { return inner_->experts(); }
  models::Sharding sharding() const override { return inner_->sharding(); }
  void finish_loading(models::kernels::Arithmetic arithmetic) override {
    inner_->finish_loading(arithmetic);
  }

  const std::string& name() const { return name_; }
  const std::string& projection() const { return projection_; }
  std::string path() const { return name_ + '.' + projection_; }
  std::string expert_path(std::int64_t expert) const;
  /// (E, r, in) and (E, out, r) of the experts held here, or (r, in) and (out, r) where all share
  /// one; float32, trainable.
  at::Tensor& A() { return A_; }
  at::Tensor& B() { return B_; }
  bool shares_A() const { return A_.dim() == 2; }
  bool shares_B() const { return B_.dim() == 2; }
  /// Views of one expert's factors, by its number in the layer.
  at::Tensor A_of(std::int64_t expert) const;  // (r, in)
  at::Tensor B_of(std::int64_t expert) const;  // (out, r)
  double scale() const { return scale_; }
  void set_enabled(bool enabled) { enabled_ = enabled; }  // off: the base alone
  /// W + s B A of one expert, added in float32, rounded once to W's dtype.
  at::Tensor merged_weight(std::int64_t expert) const;

 private:
  GroupedLoraOperands operands() const { return {inner_->weights(), A_, B_, scale_}; }
  void initialise(const LoraConfig& config, std::int64_t r, std::uint64_t seed, bool share_A,
                  bool share_B);

  std::shared_ptr<models::GroupedLinearBase> inner_;
  std::string name_, projection_;
  double scale_;
  bool enabled_ = true;
  at::Tensor A_, B_;
};

}  // namespace tailor::peft
