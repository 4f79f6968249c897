#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "models/layers/attention.hpp"
#include "models/layers/layer_context.hpp"
#include "models/layers/linear.hpp"
#include "models/layers/norm.hpp"

namespace tailor::models {

class AttentionBlock : public Module {
 public:
  virtual at::Tensor forward(const at::Tensor& x_TD, const LayerContext& context) const = 0;
  virtual void finish_loading(kernels::Arithmetic arithmetic) = 0;
};

struct SelfAttentionConfig {
  std::int64_t hidden_size, num_attention_heads, num_key_value_heads, head_dim;
  bool qkv_bias = false, output_bias = false;
  bool qk_norm = false;             // RMSNorm over each head of q and k before the rotation (Qwen3)
  bool qk_norm_over_heads = false;  // the same over all heads of q, and of k, at once (OLMoE)
  double rms_norm_eps = 1e-6;
};

/// Grouped-query attention with rotary positions (Ainslie et al. 2023, arXiv:2305.13245).
class SelfAttention final : public AttentionBlock {
 public:
  /// `layer` is the block's number, for the KV cache.
  SelfAttention(const SelfAttentionConfig& config, std::int64_t layer);
  at::Tensor forward(const at::Tensor& x_TD, const LayerContext& context) const override;
  void finish_loading(kernels::Arithmetic arithmetic) override;

 private:
  std::int64_t head_dim_, layer_;
  bool norm_over_heads_;
  LinearSlot q_proj_, k_proj_, v_proj_, o_proj_;
  std::unique_ptr<RmsNorm> q_norm_, k_norm_;
};

}  // namespace tailor::models
