#include <algorithm>
#include <array>
#include <unordered_map>
#include <utility>

#include "models/files/gguf_model.hpp"

namespace tailor::models {
namespace {

using Names = std::pair<std::string_view, std::string_view>;  // GGUF's and HF's

constexpr std::array kOuter = {
    Names{"token_embd", "model.embed_tokens"},
    Names{"output_norm", "model.norm"},
    Names{"output", "lm_head"},
};
constexpr std::array kOfLayer = {
    Names{"attn_norm", "input_layernorm"},    Names{"attn_q", "self_attn.q_proj"},
    Names{"attn_k", "self_attn.k_proj"},      Names{"attn_v", "self_attn.v_proj"},
    Names{"attn_output", "self_attn.o_proj"}, Names{"attn_q_norm", "self_attn.q_norm"},
    Names{"attn_k_norm", "self_attn.k_norm"}, Names{"ffn_norm", "post_attention_layernorm"},
    Names{"ffn_gate", "mlp.gate_proj"},       Names{"ffn_up", "mlp.up_proj"},
    Names{"ffn_down", "mlp.down_proj"},
};

template <std::size_t kCount>
std::string_view find(const std::array<Names, kCount>& names, std::string_view gguf) {
  const auto found = std::find_if(names.begin(), names.end(),
                                  [&](const Names& entry) { return entry.first == gguf; });
  return found == names.end() ? std::string_view() : found->second;
}

/// "blk.3.attn_q.bias" -> "model.layers.3.self_attn.q_proj.bias"; "" for an unknown name.
std::string hf_name(std::string_view name) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return "";
  const std::string_view kind = name.substr(dot);
  if (kind != ".weight" && kind != ".bias") return "";
  name = name.substr(0, dot);
  std::string prefix;
  std::string_view hf = find(kOuter, name);
  if (name.starts_with("blk.")) {
    name.remove_prefix(4);
    const std::size_t digits = name.find_first_not_of("0123456789");
    if (digits == 0 || digits == std::string_view::npos || name[digits] != '.') return "";
    prefix = "model.layers." + std::string(name.substr(0, digits)) + ".";
    hf = find(kOfLayer, name.substr(digits + 1));
  }
  if (hf.empty()) return "";
  return prefix.append(hf).append(kind);
}

class HfTensors : public TensorSource {
 public:
  HfTensors(std::shared_ptr<const GgufFile> gguf, const GgufMetadata& metadata)
      : gguf_(std::move(gguf)), file_(metadata.file()) {
    const bool is_llama = metadata.text("general.architecture") == "llama";
    for (const TensorEntry& entry : gguf_->entries()) {
      if (entry.name == "rope_freqs.weight") continue;  // in the configuration's rope_scaling
      TensorEntry renamed = entry;
      renamed.name = hf_name(entry.name);
      if (renamed.name.empty()) {
        throw FileError(file_ + ": tensor " + in_quotes(entry.name) +
                        ": not known for this architecture");
      }
      Source source{entry.name};
      if (is_llama && entry.name.find(".attn_q.") != std::string::npos) {
        source.heads = metadata.integer("llama.attention.head_count");
      }
      if (is_llama && entry.name.find(".attn_k.") != std::string::npos) {
        source.heads = metadata.integer("llama.attention.head_count_kv",
                                        metadata.integer("llama.attention.head_count"));
      }
      if (source.heads != 0) check_heads(entry, source.heads);
      sources_.emplace(renamed.name, std::move(source));
      entries_.push_back(std::move(renamed));
    }
  }

  const std::vector<TensorEntry>& entries() const override { return entries_; }
  bool contains(const std::string& name) const override { return sources_.contains(name); }

  at::Tensor read(const std::string& name, at::ScalarType dtype) const override {
    const auto found = sources_.find(name);
    if (found == sources_.end()) {
      throw FileError(file_ + ": tensor " + in_quotes(name) + ": not in the file");
    }
    at::Tensor tensor = gguf_->read(found->second.name, dtype);
    if (found->second.heads == 0) return tensor;
    // GGUF's llama rotates neighbouring rows of a head, HF the head's first half with its second.
    const std::int64_t heads = found->second.heads, half = tensor.size(0) / heads / 2;
    return tensor.view({heads, half, 2, -1}).transpose(1, 2).reshape(tensor.sizes());
  }

 private:
  struct Source {
    std::string name;
    std::int64_t heads = 0;  // above 0: the rows of so many heads are permuted
  };

  void check_heads(const TensorEntry& entry, std::int64_t heads) const {
    const std::int64_t rows = entry.shape.empty() ? 0 : entry.shape[0];
    if (heads < 1 || rows == 0 || rows % heads != 0 || rows / heads % 2 != 0) {
      throw FileError(file_ + ": tensor " + in_quotes(entry.name) + ": its " +
                      std::to_string(rows) + " rows are not " + std::to_string(heads) +
                      " heads of an even size");
    }
  }

  std::shared_ptr<const GgufFile> gguf_;
  std::string file_;
  std::vector<TensorEntry> entries_;
  std::unordered_map<std::string, Source> sources_;
};

}  // namespace

std::shared_ptr<const TensorSource> gguf_as_hf_tensors(std::shared_ptr<const GgufFile> gguf,
                                                       const GgufMetadata& metadata) {
  return std::make_shared<HfTensors>(std::move(gguf), metadata);
}

}  // namespace tailor::models
