#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "models/families/causal_lm.hpp"
#include "models/layers/linear.hpp"
#include "peft/lora_config.hpp"
#include "peft/lora_function.hpp"

namespace tailor::peft {

/// Where a dropout mask comes from: counter-based, so that it does not depend on how a step is cut
/// into micro-batches. Set before a forward in training; absent = no dropout (evaluation).
struct DropoutState {
  std::uint64_t seed = 0;
  std::int64_t step = 0;
  std::int64_t first_token = 0;  // number within the step of the batch's first token
};

class LoraLinear final : public models::LinearBase {
 public:
  /// `index` is the layer's number among the adapted ones: the module part of the dropout counter.
  /// Factors are initialised from `seed` and `path`. Throws ConfigError naming `place` for a rank
  /// above min(in, out).
  LoraLinear(std::shared_ptr<models::LinearBase> inner, std::string path, std::int64_t index,
             const LoraConfig& config, std::uint64_t seed,
             std::shared_ptr<const DropoutState*> dropout, const std::string& place);

  at::Tensor forward(const at::Tensor& x_TI) override;
  void forward_siblings(const at::Tensor& x_TI, std::span<models::LinearBase* const> layers,
                        std::span<at::Tensor> y) override;
  const models::kernels::Weight& weight() const override { return inner_->weight(); }
  std::optional<at::Tensor> bias() const override { return inner_->bias(); }
  std::int64_t in_features() const override { return inner_->in_features(); }
  std::int64_t out_features() const override { return inner_->out_features(); }
  models::Sharding sharding() const override { return inner_->sharding(); }
  void finish_loading(models::kernels::Arithmetic arithmetic) override {
    inner_->finish_loading(arithmetic);
  }

  const std::string& path() const { return path_; }
  at::Tensor& A() { return A_; }  // (r, in) float32; of the part of W held here, where sharded
  at::Tensor& B() { return B_; }  // (out, r) float32
  double scale() const { return scale_; }
  void set_enabled(bool enabled) { enabled_ = enabled; }  // off: the base alone
  at::Tensor merged_weight() const;  // W + s B A, added in float32, rounded once to W's dtype

 private:
  LoraOperands operands() const;

  std::shared_ptr<models::LinearBase> inner_;
  std::string path_;
  std::int64_t index_;
  double scale_, dropout_p_;
  bool enabled_ = true;
  std::shared_ptr<const DropoutState*> dropout_;
  at::Tensor A_, B_;
};

/// The adapter of one model: its layers in order of the model's slots.
class LoraAdapter {
 public:
  /// Wraps every slot that the configuration targets. Factors are initialised from `seed` and the
  /// layer's path, so that they depend on neither order nor rank count. The model need not be
  /// loaded yet: shapes are then those of its configuration. Throws ConfigError for a target that
  /// matches nothing (naming `place`), for a rank above min(in, out), and where nothing is left
  /// after the exclusions.
  LoraAdapter(models::CausalLM& model, LoraConfig config, std::uint64_t seed,
              const std::string& place = "peft.target_modules");

  const LoraConfig& config() const { return config_; }
  const std::vector<std::shared_ptr<LoraLinear>>& layers() const { return layers_; }
  /// Every linear layer of the model, adapted or not, the head left out.
  const std::vector<std::string>& module_paths() const { return module_paths_; }
  std::vector<at::Tensor> parameters() const;  // A, B of each layer in turn; float32, trainable
  /// Adapted layers and parameters a class of module ("q_proj"), for the log.
  struct ClassCount {
    std::int64_t layers = 0, parameters = 0;
  };
  std::map<std::string, ClassCount> counts() const;
  std::int64_t num_parameters() const;

  void set_enabled(bool enabled);
  void set_dropout(const DropoutState* state) { *dropout_ = state; }  // null: evaluation

 private:
  LoraConfig config_;
  std::vector<std::string> module_paths_;
  std::shared_ptr<const DropoutState*> dropout_;
  std::vector<std::shared_ptr<LoraLinear>> layers_;
};

}  // namespace tailor::peft
