#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "models/files/tensor_source.hpp"
#include "peft/lora.hpp"

namespace tailor::peft {

/// How much of an adapter survives the rounding of merged weights.
struct MergeReport {
  std::int64_t num_layers = 0;
  double delta_norm = 0.0;          // |s B A|, Frobenius, over all layers
  double applied_norm = 0.0;        // |W_merged - W|, both as written
  double max_rounding_error = 0.0;  // largest |W_merged - (W + s B A)| of an entry

  double applied_share() const { return delta_norm > 0.0 ? applied_norm / delta_norm : 0.0; }
};

/// The tensors of a checkpoint with an adapter merged in: W + s B A is added in float32 and rounded
/// once, to the dtype that is asked for; trained routers take the place of the base's. Everything
/// else is read as it is.
class MergedTensors final : public models::TensorSource {
 public:
  /// The adapter may be seated in a model whose weights are not loaded. Throws FileError where
  /// `base` lacks an adapted weight.
  MergedTensors(std::shared_ptr<const models::TensorSource> base, const LoraAdapter& adapter);

  const std::vector<models::TensorEntry>& entries() const override { return base_->entries(); }
  bool contains(const std::string& name) const override { return base_->contains(name); }
  at::Tensor read(const std::string& name, at::ScalarType dtype) const override;

  MergeReport report() const;  // of the weights read so far, by their last reading

 private:
  struct Loss {  // sums of squares, and the largest error
    double delta = 0.0, applied = 0.0, max_error = 0.0;
  };

  std::shared_ptr<const models::TensorSource> base_;
  std::map<std::string, AdaptedModule> modules_;  // by the weight's name
  std::map<std::string, at::Tensor> replaced_;    // of routers, by name
  mutable std::mutex mutex_;
  mutable std::map<std::string, Loss> losses_;
};

}  // namespace tailor::peft
