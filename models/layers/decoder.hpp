#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "models/layers/embedding.hpp"
#include "models/layers/mlp.hpp"
#include "models/layers/norm.hpp"
#include "models/layers/region.hpp"
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

/// Embedding, layers, final norm: the checkpoint's "model.".
class Decoder final : public Module {
 public:
  Decoder(std::int64_t vocab_size, std::int64_t hidden_size, double rms_norm_eps,
          std::vector<std::unique_ptr<DecoderLayer>> layers, const RopeConfig& rope);

  at::Tensor forward(const Batch& batch, kernels::Arithmetic arithmetic) const;  // (T, D)
  const Embedding& embed_tokens() const { return embed_tokens_; }
  Embedding& embed_tokens() { return embed_tokens_; }
  std::span<const std::unique_ptr<DecoderLayer>> layers() const { return layers_; }

  /// Layers, embedding and head are computed by several ranks together; the embedding is sharded by
  /// its vocabulary. forward() answers all tokens, for a head that holds a part of the vocabulary.
  void set_region(const std::shared_ptr<Region>& region);
  void finish_loading(kernels::Arithmetic arithmetic);

 private:
  Embedding embed_tokens_;
  std::vector<std::unique_ptr<DecoderLayer>> layers_;
  RmsNorm norm_;
  at::Tensor frequency_F_;
  std::shared_ptr<Region> region_;
};

}  // namespace tailor::models
