#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "configs/reader.hpp"
#include "models/batch.hpp"
#include "models/files/pretrained.hpp"
#include "models/layers/linear.hpp"

namespace tailor::models {

class Decoder;
struct Stage;

/// What callers need to know of any family's dimensions.
struct ModelShape {
  std::string model_type;
  std::int64_t vocab_size, hidden_size, num_hidden_layers, num_key_value_heads, head_dim,
      max_position_embeddings;
  std::int64_t num_experts = 0, num_experts_per_tok = 0;  // routed, of a layer; 0: none
};

/// A decoder-only transformer. Forward is a pure function of the batch and the parameters; the base
/// is frozen, and gradients flow through it into adapters.
class CausalLM : public Module {
 public:
  virtual const ModelShape& shape() const = 0;
  /// Hidden states behind the final norm, (T, D), in the dtype of the activations.
  virtual at::Tensor hidden_states(const Batch& batch) const = 0;
  /// logits = lm_head()(hidden); tied to the embedding where the configuration says so.
  virtual const LinearSlot& lm_head() const = 0;
  virtual kernels::Arithmetic arithmetic() const = 0;
  /// Where its parameters are and its answers will be. Batches stay in host memory.
  virtual at::Device device() const { return at::kCPU; }
  /// Embedding, layers and final norm, for the passes that spread a model over ranks; null for a
  /// model that has no such parts.
  virtual Decoder* decoder() { return nullptr; }
  /// Keeps one stage of a pipeline, before loading. Throws ValueError for a model without
  /// decoder().
  virtual void keep_stage(const Stage& stage);
  /// Called once, when every parameter holds its tensor.
  virtual void finish_loading(kernels::Arithmetic arithmetic) = 0;
};

/// The family of config.json's `model_type`, without weights. An unknown model_type, a missing
/// field and a field that would change the function and is not supported are ConfigErrors by name.
std::unique_ptr<CausalLM> make_causal_lm(const std::string& config_json, const std::string& file);

/// Builds the model and reads every parameter as `dtype` (kFloat or kBFloat16). A tensor that is
/// missing or has another shape is a FileError.
std::unique_ptr<CausalLM> load_causal_lm(const Pretrained& pretrained, at::ScalarType dtype,
                                         kernels::Arithmetic arithmetic);

/// Reads `length` rows (dimension 0) from `begin` on of one parameter, of its slice where it has
/// one, onto the device of the model. None at all have the dtype and the width of a row.
using ReadRows = std::function<at::Tensor(std::int64_t begin, std::int64_t length)>;
/// Fills one parameter's value for who holds fewer rows of it; false: it is to be read whole.
using TakeParameter = std::function<bool(const NamedParameter&, const ReadRows&)>;

/// Reads every parameter of a model that is made, and was perhaps cut into parts, but is not
/// loaded, and brings it to `device`. `take`, where there is one, is offered each first.
void load_parameters(CausalLM& model, const Pretrained& pretrained, at::ScalarType dtype,
                     kernels::Arithmetic arithmetic, const TakeParameter& take = {},
                     at::Device device = at::kCPU);

}  // namespace tailor::models
