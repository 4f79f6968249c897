#include <algorithm>

#include "models/files/gguf_model.hpp"

namespace tailor::models {
namespace {

// llama.cpp's kinds of tokens.
constexpr std::int64_t kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5;

std::optional<std::int64_t> token_id(const GgufMetadata& metadata, const std::string& key,
                                     std::size_t num_tokens) {
  if (!metadata.has(key)) return {};
  const std::int64_t id = metadata.integer(key);
  if (id < 0 || static_cast<std::size_t>(id) >= num_tokens) {
    metadata.fail(key, "expected an id below " + std::to_string(num_tokens) + ", found " +
                           std::to_string(id));
  }
  return id;
}

void read_tokens(const GgufMetadata& metadata, text::TokenizerSpec& spec) {
  spec.vocab = metadata.texts("tokenizer.ggml.tokens");
  const auto kinds = metadata.integers("tokenizer.ggml.token_type");
  if (!kinds.empty() && kinds.size() != spec.vocab.size()) {
    metadata.fail("tokenizer.ggml.token_type", "expected " + std::to_string(spec.vocab.size()) +
                                                   " values, found " +
                                                   std::to_string(kinds.size()));
  }
  for (std::size_t id = 0; id < kinds.size(); ++id) {
    // Writers fill the vocabulary up to the embedding's rows with tokens of this kind.
    if (kinds[id] == kUnused) spec.vocab[id].clear();
    if (kinds[id] != kControl && kinds[id] != kUserDefined && kinds[id] != kUnknown) continue;
    if (spec.vocab[id].empty()) {
      metadata.fail("tokenizer.ggml.tokens", "token " + std::to_string(id) + " is empty");
    }
    text::AddedToken token;
    token.id = static_cast<std::int64_t>(id);
    token.content = spec.vocab[id];
    token.special = kinds[id] != kUserDefined;
    spec.added_tokens.push_back(std::move(token));
  }
}

void read_merges(const GgufMetadata& metadata, text::TokenizerSpec& spec) {
  const std::string key = "tokenizer.ggml.merges";
  const auto& merges = metadata.texts(key);
  spec.merges.reserve(merges.size());
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const std::size_t space = merges[i].find(' ');  // the byte alphabet has none
    if (space == std::string::npos || space == 0 || space + 1 == merges[i].size()) {
      metadata.fail(key, "merge " + std::to_string(i) + ": expected two parts, found " +
                             in_quotes(merges[i]));
    }
    spec.merges.emplace_back(merges[i].substr(0, space), merges[i].substr(space + 1));
  }
}

}  // namespace

std::vector<std::int64_t> gguf_eos_ids(const GgufMetadata& metadata) {
  std::vector<std::int64_t> ids;
  for (const char* const key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    if (!metadata.has(key)) continue;
    const std::int64_t id = metadata.integer(key);
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
  return ids;
}

text::TokenizerSpec gguf_tokenizer(const GgufMetadata& metadata) {
  const std::string model = metadata.text("tokenizer.ggml.model");
  if (model != "gpt2") {
    metadata.fail("tokenizer.ggml.model",
                  "expected \"gpt2\" (byte-level BPE), found " + in_quotes(model));
  }
  const std::string pre = metadata.text("tokenizer.ggml.pre");
  const bool is_llama3 = pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3";

  text::TokenizerSpec spec;
  read_tokens(metadata, spec);
  read_merges(metadata, spec);
  spec.pre_tokenizer = text::pre_tokenizer_named(pre, metadata.file());
  // What GGUF leaves to the name of the pre-tokenisation.
  spec.ignore_merges = is_llama3;
  spec.nfc = pre == "qwen2";
  const std::size_t count = spec.vocab.size();
  spec.bos_id = token_id(metadata, "tokenizer.ggml.bos_token_id", count);
  spec.eos_id = token_id(metadata, "tokenizer.ggml.eos_token_id", count);
  spec.pad_id = token_id(metadata, "tokenizer.ggml.padding_token_id", count);
  spec.unk_id = token_id(metadata, "tokenizer.ggml.unknown_token_id", count);
  if (spec.bos_id && metadata.boolean("tokenizer.ggml.add_bos_token", is_llama3)) {
    spec.prefix_ids = {*spec.bos_id};
  }
  if (spec.eos_id && metadata.boolean("tokenizer.ggml.add_eos_token", false)) {
    spec.suffix_ids = {*spec.eos_id};
  }
  return spec;
}

}  // namespace tailor::models
