#include "models/files/pretrained.hpp"

#include "models/files/gguf_model.hpp"
#include "models/files/hf_directory.hpp"

namespace tailor::models {
namespace {

void check_single_file(const GgufMetadata& metadata) {
  const std::int64_t parts = metadata.integer("split.count", 1);
  if (parts > 1) {
    metadata.fail("split.count", "one of " + std::to_string(parts) +
                                     " parts; join them with llama.cpp's gguf-split --merge");
  }
}

/// Every id needs a row of the embedding.
void check_ids(const GgufMetadata& metadata, const TensorSource& tensors, std::int64_t num_tokens) {
  for (const TensorEntry& entry : tensors.entries()) {
    if (entry.name == "model.embed_tokens.weight" && entry.shape[0] < num_tokens) {
      metadata.fail("tokenizer.ggml.tokens", std::to_string(num_tokens) + " tokens, but the " +
                                                 "embedding has " + std::to_string(entry.shape[0]) +
                                                 " rows");
    }
  }
}

Pretrained open_gguf_model(const std::filesystem::path& path) {
  const auto gguf = open_gguf(path);
  const GgufMetadata metadata(gguf->header(), path.string());
  check_single_file(metadata);
  Pretrained model;
  model.path = path;
  model.config_json = gguf_config_json(*gguf, metadata);
  model.config_file = path.string();
  model.tensors = gguf_as_hf_tensors(gguf, metadata);
  model.tokenizer = text::make_tokenizer(gguf_tokenizer(metadata));
  check_ids(metadata, *model.tensors, model.tokenizer->size());
  model.chat_template = metadata.text("tokenizer.chat_template", "");
  model.generation.eos_token_id = gguf_eos_ids(metadata);
  model.generation.bos_token_id = model.tokenizer->spec().bos_id;
  model.generation.pad_token_id = model.tokenizer->spec().pad_id;
  return model;
}

}  // namespace

Pretrained open_pretrained(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) {
    throw FileError(path.string() + ": no such file or directory; expected a HF directory or a " +
                    "GGUF file");
  }
  if (path.extension() == ".safetensors") {
    throw FileError(path.string() + ": weights alone; name the directory that holds config.json");
  }
  return std::filesystem::is_directory(path) ? open_hf_directory(path) : open_gguf_model(path);
}

}  // namespace tailor::models
