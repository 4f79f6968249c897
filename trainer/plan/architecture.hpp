#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tailor::trainer::plan {

/// What parameters, memory and work of a decoder follow from, read from a published config.json
/// alone: no weights, no tokenizer. 0 where a part is absent.
struct Architecture {
  enum class QkNorm { None, PerHead, Whole };  // RMSNorm over each head, or over all of q and of k

  std::string name;        // "_name_or_path" of the file, or the name of the file or its folder
  std::string model_type;  // as published
  std::string published;   // "_published_size": what its authors say, for people to compare
  std::int64_t hidden_size = 0, num_hidden_layers = 0, vocab_size = 0;
  bool tie_word_embeddings = false;

  std::int64_t num_attention_heads = 0, num_key_value_heads = 0, head_dim = 0;
  bool qkv_bias = false, output_bias = false;
  QkNorm qk_norm = QkNorm::None;
  // Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, 2.1) where kv_lora_rank > 0.
  std::int64_t q_lora_rank = 0, kv_lora_rank = 0;
  std::int64_t qk_nope_head_dim = 0, qk_rope_head_dim = 0, v_head_dim = 0;

  std::int64_t intermediate_size = 0;  // of dense layers
  bool mlp_bias = false;
  std::int64_t num_experts = 0, num_experts_per_tok = 0, moe_intermediate_size = 0;
  std::int64_t shared_expert_width = 0;  // of all shared experts together
  bool shared_expert_gate = false;       // Qwen2-MoE: one row
  bool router_bias = false;              // DeepSeek-V3: a correction for each expert
  std::vector<bool> sparse;              // one a layer: experts in the place of the dense MLP

  bool latent_attention() const { return kv_lora_rank > 0; }
  std::int64_t query_key_dim() const;  // of one head
  std::int64_t value_dim() const;      // of one head
};

/// `path` is a config.json, a file of that form under another name, or a folder that holds
/// config.json. Families: llama, qwen2, qwen3, mixtral, qwen2_moe, qwen3_moe, olmoe, deepseek_v2,
/// deepseek_v3, kimi_k2. Fields that no count depends on are not looked at. Throws
/// configs::ConfigError.
Architecture read_architecture(const std::string& path);

/// The same from the text; `file` is for messages and the name.
Architecture parse_architecture(const std::string& text, const std::string& file);

}  // namespace tailor::trainer::plan
