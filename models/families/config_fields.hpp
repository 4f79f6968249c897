#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "configs/reader.hpp"
#include "models/families/causal_lm.hpp"
#include "models/layers/decoder.hpp"
#include "models/layers/mla.hpp"
#include "models/layers/self_attention.hpp"

namespace tailor::models {

/// Fields of config.json that decoder-only families share, by their published names.
struct DecoderConfig {
  ModelShape shape;
  SelfAttentionConfig attention;
  std::optional<MlaConfig> latent_attention;  // in place of `attention`
  std::int64_t intermediate_size = 0;
  double rms_norm_eps = 1e-6;
  bool tie_word_embeddings = false, mlp_bias = false;
  RopeConfig rope;
};

/// Reads them; a family adds its own fields, then calls finish_config().
DecoderConfig read_decoder_config(configs::Section& config);

/// Qwen's windowed attention: off in every published dense checkpoint, refused where on.
void refuse_sliding_window(configs::Section& config);

/// Consumes what does not change the function (dtypes, ids, versions, training-only fields left at
/// 0); every other field that nobody read is refused by name unless it is null, false or empty.
void finish_config(configs::Section& config);

/// Builds embedding, the given layers, norm and head.
std::unique_ptr<CausalLM> make_decoder(const DecoderConfig& config,
                                       std::vector<std::unique_ptr<DecoderLayer>> layers);

/// The attention of one layer.
std::unique_ptr<AttentionBlock> make_attention(const DecoderConfig& config, std::int64_t layer);

/// Layers of SelfAttention and SwiGluMlp.
std::unique_ptr<CausalLM> make_dense_decoder(const DecoderConfig& config);

}  // namespace tailor::models
