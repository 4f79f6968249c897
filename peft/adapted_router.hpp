#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

#include "models/families/routers.hpp"

namespace tailor::peft {

/// A router that is trained whole beside the factors, as HF PEFT does by modules_to_save: a copy
/// takes the place of the base's matrix (E, D) and of its correction bias (E), where the family has
/// one. The base's own stay as they are and are back while the adapter is off.
class AdaptedRouter {
 public:
  static constexpr const char *kWeight = "weight", *kCorrectionBias = "e_score_correction_bias";

  /// Seats copies of what is loaded, zeros in a model that is not.
  explicit AdaptedRouter(const models::NamedRouter& router);

  const std::string& path() const { return router_.name; }       // "model.layers.0.mlp.gate"
  std::int64_t layer() const { return router_.block->layer(); }  // its number in a RoutingTrace
  const models::RouterConfig& config() const { return router_.config(); }
  const at::Tensor& weight() const { return weight_ED_; }  // float32, requires a gradient
  /// float32 without gradient, undefined where there is none. Written in place.
  const at::Tensor& correction_bias() const { return bias_E_; }
  /// Both by the names of the parameters, as far as they are there; detached, the same memory.
  std::vector<std::pair<std::string, at::Tensor>> tensors() const;
  void set_enabled(bool enabled);

 private:
  models::NamedRouter router_;
  at::Tensor base_ED_, base_bias_E_;  // undefined in a model that is not loaded
  at::Tensor weight_ED_, bias_E_;
};

/// The key of a router's "weight" or "e_score_correction_bias" in an adapter file,
/// "base_model.model.<path>.weight". The block is called mlp in every family, as transformers 5
/// does: PEFT renames keys of factors at loading and not those of saved modules.
std::string saved_key(const std::string& path, const std::string& parameter);

}  // namespace tailor::peft
