#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "models/families/causal_lm.hpp"
#include "models/layers/linear_wrapper.hpp"
#include "peft/adapted_router.hpp"
#include "peft/grouped_lora.hpp"
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

class LoraLinear final : public models::LinearWrapper {
 public:
  /// Factors are initialised from `seed` and `path`, in the memory of `inner`'s weight. Throws
  /// ConfigError naming `place` for a rank above min(in, out).
  LoraLinear(std::shared_ptr<models::LinearBase> inner, std::string path, const LoraConfig& config,
             std::uint64_t seed, std::shared_ptr<const DropoutState*> dropout,
             const std::string& place);

  at::Tensor forward(const at::Tensor& x_TI) override;
  at::Tensor forward_known(const at::Tensor& x_TI, at::Tensor y_TO) override;
  void forward_siblings(const at::Tensor& x_TI, std::span<models::LinearBase* const> layers,
                        std::span<at::Tensor> y) override;

  const std::string& path() const { return path_; }
  at::Tensor& A() { return A_; }  // (r, in) float32; of the part of W held here, where sharded
  at::Tensor& B() { return B_; }  // (out, r) float32
  double scale() const { return scale_; }
  void set_enabled(bool enabled) { enabled_ = enabled; }  // off: the base alone
  at::Tensor merged_weight() const;  // W + s B A, added in float32, rounded once to W's dtype

 private:
  LoraOperands operands() const;

  std::string path_;
  std::uint64_t stream_;  // of the path: dropout masks depend on no order of layers
  double scale_, dropout_p_;
  bool enabled_ = true;
  std::shared_ptr<const DropoutState*> dropout_;
  at::Tensor A_, B_;
};

/// The key of a factor in an adapter file: "base_model.model.<path>.lora_A.weight".
std::string factor_key(const std::string& path, char factor);

/// A matrix with its factors: a linear layer, or one projection of one expert.
struct AdaptedModule {
  std::string path;  // "model.layers.0.mlp.experts.3.gate_proj"
  at::Tensor A, B;   // (r, in), (out, r); views of what is trained, of the part held here
  double scale;
  bool shared_A = false, shared_B = false;  // the same memory as in the layer's other experts
};

/// A tensor that is trained, for callers that reduce, clip, shard or save it.
struct Trainable {
  std::string name;  // one tensor's: "model.layers.0.mlp.experts.gate_proj.lora_A.weight"
  at::Tensor value;  // float32 leaf
  enum class Kind {
    Single,          // of a linear layer or a router: the same on all ranks that hold the layer
    PerExpert,       // dimension 0 counts the experts held here: other ranks hold others
    SharedByExperts  // one for all experts: its gradient is the sum over the ranks of experts
  } kind = Kind::Single;
  models::ExpertRange experts;  // of dimension 0 (PerExpert); else none
  /// The dimension of `value` of which a rank holds the part that `sharding` tells of its matrix;
  /// absent: whole on every rank.
  std::optional<std::int64_t> sharded_dim;
  models::Sharding sharding;  // of the matrix
  /// Keys in an adapter file: of the tensor; PerExpert: of each expert held here, in order;
  /// SharedByExperts: those too, and every one holds the same values.
  std::vector<std::string> keys;
};

/// What targets are chosen from.
struct ModulePaths {
  std::vector<std::string> linear;  // the model's linear layers in order of its slots, then every
                                    // projection of every expert; the head where it has a seat
  std::string head;
  std::vector<std::string> others;  // embedding, norms, routers: may be named to be left out
};
ModulePaths module_paths_of(models::CausalLM& model);

/// The adapter of one model: its linear layers in order of the model's slots, then its grouped
/// layers in order of theirs, then the routers where they are trained.
class LoraAdapter {
 public:
  /// Wraps every slot that the configuration targets; moe_rank and moe_scale become patterns of
  /// config(). Factors are initialised from `seed` and the layer's path, so that they depend on
  /// neither order nor rank count. The model need not be loaded yet: shapes are then those of its
  /// configuration. Where it is one rank's part of a model, `whole` tells of all layers: a target
  /// may then match none of this part's, which trains nothing. Throws ConfigError for a target that
  /// matches nothing (naming `place`, that of target_modules), for one that means some experts of a
  /// layer and not the others, for a rank above min(in, out), for dropout on experts, for options
  /// of experts on a model that has none, and where nothing is left after the exclusions.
  LoraAdapter(models::CausalLM& model, LoraConfig config, std::uint64_t seed,
              const std::string& place = "peft.target_modules", const ModulePaths* whole = nullptr);

  const LoraConfig& config() const { return config_; }
  const std::vector<std::shared_ptr<LoraLinear>>& layers() const { return layers_; }
  const std::vector<std::shared_ptr<GroupedLoraLinear>>& grouped_layers() const {
    return grouped_layers_;
  }
  /// Of the layers held here; none where they are the base's.
  const std::vector<std::shared_ptr<AdaptedRouter>>& routers() const { return routers_; }
  /// Every matrix that is adapted by factors, those of experts one by one.
  std::vector<AdaptedModule> modules() const;
  /// Every linear layer of the model, whole, and every projection of its experts, adapted or not,
  /// the head left out.
  const std::vector<std::string>& module_paths() const { return module_paths_; }
  /// A, B of each layer in turn, then the routers' matrices; float32, trainable.
  std::vector<at::Tensor> parameters() const;
  std::vector<Trainable> trainables() const;  // the same tensors in the same order, described
  /// What the adapter holds beside them: correction biases, which no gradient moves.
  std::vector<Trainable> buffers() const;
  /// The model has routed experts, and none of them is adapted.
  bool experts_left_out() const { return has_experts_ && grouped_layers_.empty(); }
  /// Adapted matrices and parameters a class of module ("q_proj", "experts.gate_proj", "router"),
  /// for the log; of what is held here.
  struct ClassCount {
    std::int64_t layers = 0, parameters = 0;
  };
  std::map<std::string, ClassCount> counts() const;
  std::int64_t num_parameters() const;

  void set_enabled(bool enabled);
  void set_dropout(const DropoutState* state) { *dropout_ = state; }  // null: evaluation

 private:
  void seat_linear(models::LinearSlot& slot, const std::string& path, std::uint64_t seed,
                   const std::string& place);
  void seat_grouped(const models::NamedGroupedSlot& slot, std::uint64_t seed,
                    const std::string& place);

  LoraConfig config_;
  bool has_experts_ = false;
  std::vector<std::string> module_paths_;
  std::shared_ptr<const DropoutState*> dropout_;
  std::vector<std::shared_ptr<LoraLinear>> layers_;
  std::vector<std::shared_ptr<GroupedLoraLinear>> grouped_layers_;
  std::vector<std::shared_ptr<AdaptedRouter>> routers_;
};

}  // namespace tailor::peft
