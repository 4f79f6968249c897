#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "models/files/gguf.hpp"
#include "models/text/tokenizer.hpp"

namespace tailor::models {

/// Typed access to the metadata of a GGUF file. A missing key and one of another type are
/// FileErrors that name file and key.
class GgufMetadata {
 public:
  GgufMetadata(const GgufHeader& header, std::string file)
      : header_(header), file_(std::move(file)) {}

  const std::string& file() const { return file_; }
  bool has(const std::string& key) const { return header_.metadata.contains(key); }
  /// Also of a list of equal numbers, one a layer.
  std::int64_t integer(const std::string& key, std::optional<std::int64_t> fallback = {}) const;
  double number(const std::string& key, std::optional<double> fallback = {}) const;
  bool boolean(const std::string& key, bool fallback) const;
  std::string text(const std::string& key, std::optional<std::string> fallback = {}) const;
  const std::vector<std::string>& texts(const std::string& key) const;
  std::vector<std::int64_t> integers(const std::string& key) const;  // absent: empty
  [[noreturn]] void fail(const std::string& key, const std::string& problem) const;

 private:
  const GgufValue* find(const std::string& key, bool required) const;
  const GgufHeader& header_;
  std::string file_;
};

/// A number that was stored as a float32, as people write it: 1e-05, not 9.999999747378752e-06.
double shortest_decimal(double value);

/// The config.json that the metadata describes, for the architectures llama, qwen2 and qwen3.
/// Another architecture and metadata that would change what the model computes and is not known
/// here are FileErrors.
std::string gguf_config_json(const GgufFile& gguf, const GgufMetadata& metadata);

/// The tensors under HF's names, q and k of the llama architecture in HF's order of rows. A tensor
/// without a HF name is a FileError.
std::shared_ptr<const TensorSource> gguf_as_hf_tensors(std::shared_ptr<const GgufFile> gguf,
                                                       const GgufMetadata& metadata);

/// The byte-level BPE tokenizer ("gpt2" in GGUF's words).
text::TokenizerSpec gguf_tokenizer(const GgufMetadata& metadata);

/// End-of-text and, where it is another one, end-of-turn.
std::vector<std::int64_t> gguf_eos_ids(const GgufMetadata& metadata);

}  // namespace tailor::models
