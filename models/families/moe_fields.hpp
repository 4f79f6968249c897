#pragma once

#include <memory>
#include <string>
#include <vector>

#include "models/families/config_fields.hpp"
#include "models/layers/moe.hpp"

namespace tailor::models {

/// Reads `num_experts` (or its other published names `num_local_experts` and `n_routed_experts`;
/// where several are given they must agree), `num_experts_per_tok` and `norm_topk_prob` (absent:
/// false) of a sparse family, and takes note of the router's loss, which is the trainer's business.
/// The experts' width is the caller's to set.
MoeConfig read_moe_config(configs::Section& config, const DecoderConfig& decoder);

/// Which layers are sparse by Qwen's `decoder_sparse_step` and `mlp_only_layers`: every step-th
/// one, counted from 1, that the list does not name.
std::vector<bool> read_sparse_layers(configs::Section& config, std::int64_t num_hidden_layers);

/// Layers of attention and MoeBlock, or SwiGluMlp where a layer is not sparse. `block_name` is
/// what the checkpoint calls the feed-forward.
std::unique_ptr<CausalLM> make_moe_decoder(const DecoderConfig& config, const MoeConfig& moe,
                                           const std::vector<bool>& is_sparse,
                                           const std::string& block_name = "mlp");

}  // namespace tailor::models
