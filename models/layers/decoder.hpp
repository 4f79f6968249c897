#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "models/layers/embedding.hpp"
#include "models/layers/mlp.hpp"
#include "models/layers/norm.hpp"
#include "models/layers/region.hpp"
#include "models/layers/residency.hpp"
#include "models/layers/self_attention.hpp"

namespace tailor::models {

/// Pre-norm decoder layer: x + attention(norm(x)), then x + feed_forward(norm(x)).
class DecoderLayer final : public Module {
 public:
  /// `mlp_name` is what the checkpoint calls the feed-forward block.
  DecoderLayer(std::unique_ptr<AttentionBlock> attention, std::unique_ptr<FeedForward> mlp,
               std::int64_t hidden_size, double rms_norm_eps, const std::string& mlp_name = "mlp");

  /// The residual stream as a sum (x, delta) that the next norm adds up: answers the same form.
  struct Stream {
    at::Tensor x_TD, delta_TD;  // delta undefined behind the embedding
  };
  Stream forward(const Stream& stream, const LayerContext& context) const;
  void finish_loading(kernels::Arithmetic arithmetic);

  FeedForward& feed_forward() { return *mlp_; }
  /// Both blocks are computed by several ranks together.
  void set_region(std::shared_ptr<Region> region) { region_ = std::move(region); }

 private:
  std::unique_ptr<AttentionBlock> self_attn_;
  std::unique_ptr<FeedForward> mlp_;
  std::shared_ptr<Region> region_;  // none: this rank alone
  RmsNorm input_layernorm_, post_attention_layernorm_;
};

/// Consecutive layers of a model, for a rank of a pipeline: layers begin up to end of all; the
/// first stage has the embedding, the last one the final norm and the head.
struct Stage {
  std::int64_t begin = 0, end = 0;
  bool first = true, last = true;
};

/// Embedding, layers, final norm: the checkpoint's "model.".
class Decoder final : public Module {
 public:
  Decoder(std::int64_t vocab_size, std::int64_t hidden_size, double rms_norm_eps,
          std::vector<std::unique_ptr<DecoderLayer>> layers, const RopeConfig& rope);

  /// (T, D) on device(), to which ids and positions are brought.
  at::Tensor forward(const Batch& batch, kernels::Arithmetic arithmetic) const;
  /// The same of one stage: `x` is what the stage before answered, undefined for the first. The
  /// last stage answers what forward() does, another one the residual stream (T or, scattered, T /
  /// tp; D).
  at::Tensor forward_stage(const Batch& batch, const at::Tensor& x_TD,
                           kernels::Arithmetic arithmetic) const;
  /// Rows of what one stage hands to the next for `num_tokens` tokens in training.
  std::int64_t rows_between_stages(std::int64_t num_tokens) const;
  /// Drops what other stages hold, before loading. `with_embedding`: a last stage whose head is
  /// tied to it has it too.
  void keep_stage(const Stage& stage, bool with_embedding);
  const Embedding& embed_tokens() const { return embed_tokens_; }
  Embedding& embed_tokens() { return embed_tokens_; }
  std::span<const std::unique_ptr<DecoderLayer>> layers() const { return layers_; }

  /// Layers, embedding and head are computed by several ranks together; the embedding is sharded by
  /// its vocabulary. forward() answers all tokens, for a head that holds a part of the vocabulary.
  void set_region(const std::shared_ptr<Region>& region);
  /// Layers' matrices are in memory only while they are used.
  void set_residency(std::shared_ptr<LayerResidency> residency) {
    residency_ = std::move(residency);
  }
  void finish_loading(kernels::Arithmetic arithmetic);
  at::Device device() const { return device_; }  // where it was loaded to

 private:
  DecoderLayer::Stream run_layer(std::size_t i, DecoderLayer::Stream stream,
                                 const LayerContext& context) const;
  bool is_scattered(std::int64_t num_tokens, bool decoding) const;
  void register_children(bool with_embedding);

  Embedding embed_tokens_;
  std::vector<std::unique_ptr<DecoderLayer>> layers_;
  RmsNorm norm_;
  at::Device device_ = at::kCPU;
  at::Tensor frequency_F_;
  double attention_factor_;
  std::shared_ptr<Region> region_;
  std::shared_ptr<LayerResidency> residency_;  // none: always there
  Stage stage_;
};

}  // namespace tailor::models
