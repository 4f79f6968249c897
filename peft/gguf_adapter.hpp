#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "peft/adapter_file.hpp"

namespace tailor::peft {

/// What the format asks about the base model.
struct GgufBase {
  std::string architecture;  // llama.cpp's word: "llama", "qwen2", "qwen3"
  std::int64_t num_attention_heads = 0, num_key_value_heads = 0;
};

/// From the base's config.json. Throws ConfigError for a model_type that has no known names there.
GgufBase read_gguf_base(const std::string& config_json, const std::string& file);

/// Writes a LoRA adapter as llama.cpp loads it (`--lora`; its convert_lora_to_gguf.py and
/// src/llama-adapter.cpp): GGUF version 3, general.type "adapter", adapter.type "lora",
/// adapter.lora.alpha, and float32 tensors "blk.N.attn_q.weight.lora_a" and ".lora_b". There the
/// scale is alpha / rank for every module: where ours differs (rsLoRA, alpha_pattern) lora_b takes
/// the quotient. Rows of lora_b of q and k are permuted for the architecture "llama", whose weights
/// are. Throws FileError for a module without a name in the format.
void write_gguf_adapter(const AdapterFiles& files, const GgufBase& base,
                        const std::filesystem::path& file);

}  // namespace tailor::peft
