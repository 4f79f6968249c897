#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

#include "models/layers/self_attention.hpp"

namespace tailor::models {

struct MlaConfig {
  std::int64_t hidden_size = 0, num_attention_heads = 0;
  std::int64_t q_lora_rank = 0;  // 0: queries are projected from x in one step
  std::int64_t kv_lora_rank = 0;
  // A head of q and k has a part without positions and one that is rotated.
  std::int64_t qk_nope_head_dim = 0, qk_rope_head_dim = 0, v_head_dim = 0;
  bool attention_bias = false;  // of q_a_proj, kv_a_proj_with_mqa and o_proj
  bool rope_interleave = true;  // rotated pairs are neighbours (2i, 2i + 1), not (i, i + R / 2)
  double scale_factor = 1.0;    // times 1 / sqrt(qk_nope_head_dim + qk_rope_head_dim)

  std::int64_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
};

/// Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1): keys and values are
/// expanded from one narrow latent a token, with one rotated key part that all heads share. The
/// cache holds expanded keys, and values padded to their width.
class LatentAttention final : public AttentionBlock {
 public:
  /// `layer` is the block's number, for the KV cache.
  LatentAttention(const MlaConfig& config, std::int64_t layer);
  at::Tensor forward(const at::Tensor& x_TD, const LayerContext& context) const override;
  void finish_loading(kernels::Arithmetic arithmetic) override;

 private:
  MlaConfig config_;
  std::int64_t layer_;
  std::unique_ptr<LinearSlot> q_a_proj_;  // none: q_proj_ reads x
  std::unique_ptr<RmsNorm> q_a_layernorm_;
  LinearSlot q_proj_;  // "q_b_proj" behind q_a_proj
  LinearSlot kv_a_proj_;
  RmsNorm kv_a_layernorm_;
  LinearSlot kv_b_proj_, o_proj_;
};

}  // namespace tailor::models
