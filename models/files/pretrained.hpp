#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "configs/reader.hpp"
#include "models/files/file_error.hpp"
#include "models/files/tensor_source.hpp"
#include "models/text/tokenizer.hpp"

namespace tailor::models {

/// generation_config.json: what ends a completion and how the authors sample. Absent fields keep
/// HF's defaults.
struct GenerationConfig {
  std::vector<std::int64_t> eos_token_id;
  std::optional<std::int64_t> bos_token_id, pad_token_id;
};

/// Everything a pretrained model's files say, from a HF directory (config.json, tokenizer.json,
/// tokenizer_config.json, generation_config.json, model.safetensors or its sharded index) or from
/// one GGUF file. Weights are not read yet: `tensors` maps them. Names are HF's checkpoint keys in
/// either case: GGUF's "blk.0.attn_q.weight" is "model.layers.0.self_attn.q_proj.weight", and the
/// row permutation that GGUF writers apply to q and k of the llama architecture is undone.
struct Pretrained {
  std::filesystem::path path;
  std::string config_json;  // config.json, or the same document made from GGUF metadata
  std::string config_file;  // for messages
  std::shared_ptr<const TensorSource> tensors;
  std::shared_ptr<const text::Tokenizer> tokenizer;
  std::string chat_template;  // Jinja source, "" where there is none
  GenerationConfig generation;
};

/// Throws FileError (or configs::ConfigError for a wrong JSON file).
Pretrained open_pretrained(const std::filesystem::path& path);

/// Writes a HF directory (config.json, model.safetensors, tokenizer.json, tokenizer_config.json,
/// generation_config.json) that transformers loads. `dtype` is the dtype of the weights. The
/// directory appears only when complete.
void write_hf_directory(const Pretrained& model, const std::filesystem::path& directory,
                        at::ScalarType dtype);

}  // namespace tailor::models
