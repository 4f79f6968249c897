#pragma once

#include "models/families/moe_fields.hpp"

namespace tailor::models {

/// The fields of DeepSeek's latent attention and positions: `decoder` gets them in place of its
/// plain attention.
DecoderConfig read_latent_decoder_config(configs::Section& config);

/// `n_routed_experts`, `n_shared_experts` (one MLP of that many experts' width), their width,
/// `routed_scaling_factor` and the names of DeepSeek's sparse block. The rules of the choice are
/// the caller's to set.
MoeConfig read_deepseek_moe_config(configs::Section& config, const DecoderConfig& decoder);

/// `n_group` and `topk_group`.
void read_groups(configs::Section& config, RouterConfig& router, RouterConfig::GroupScore score);

/// Layers from `first_k_dense_replace` on whose number `moe_layer_freq` divides.
std::vector<bool> read_layers_behind_dense(configs::Section& config,
                                           std::int64_t num_hidden_layers);

/// Consumes DeepSeek's fields of training and of the predictors of further tokens, whose tensors
/// (layers behind the last one) are not read; then as finish_config().
void finish_deepseek_config(configs::Section& config);

}  // namespace tailor::models
