#include "trainer/plan/architecture.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "configs/reader.hpp"

namespace tailor::trainer::plan {
namespace {

constexpr std::int64_t kMost = 1 << 24;  // a size beyond is a damaged file

std::int64_t size(configs::Section& config, const char* key,
                  std::optional<std::int64_t> fallback = {}) {
  return config.integer(key, fallback, 1, kMost);
}

void read_grouped_query_attention(configs::Section& config, Architecture& out) {
  using QkNorm = Architecture::QkNorm;
  const auto& family = out.model_type;
  out.num_key_value_heads = size(config, "num_key_value_heads", out.num_attention_heads);
  out.head_dim = size(config, "head_dim",
                      std::max<std::int64_t>(1, out.hidden_size / out.num_attention_heads));
  const bool attention_bias = config.boolean("attention_bias", false);
  if (family == "qwen2") {
    out.qkv_bias = true;
  } else if (family == "qwen2_moe") {
    out.qkv_bias = config.boolean("qkv_bias", true);
  } else if (family != "mixtral") {
    out.qkv_bias = out.output_bias = attention_bias;
  }
  if (family == "qwen3" || family == "qwen3_moe") out.qk_norm = QkNorm::PerHead;
  if (family == "olmoe") out.qk_norm = QkNorm::Whole;
}

void read_latent_attention(configs::Section& config, Architecture& out) {
  out.num_key_value_heads = out.num_attention_heads;
  out.q_lora_rank = config.integer("q_lora_rank", 0, 0, kMost);
  out.kv_lora_rank = size(config, "kv_lora_rank");
  out.qk_nope_head_dim = size(config, "qk_nope_head_dim");
  out.qk_rope_head_dim = size(config, "qk_rope_head_dim");
  out.v_head_dim = size(config, "v_head_dim");
  if (config.boolean("attention_bias", false))
    config.reject("attention_bias", "expected false with latent attention");
}

/// Qwen: layer i is sparse where (i + 1) is a multiple of decoder_sparse_step and i is not listed.
void mark_qwen_layers(configs::Section& config, Architecture& out) {
  const auto step = config.integer("decoder_sparse_step", 1, 1, kMost);
  for (std::size_t i = 0; i < out.sparse.size(); ++i)
    out.sparse[i] = (static_cast<std::int64_t>(i) + 1) % step == 0;
  for (const auto layer : config.integers("mlp_only_layers")) {
    if (layer >= 0 && layer < out.num_hidden_layers)
      out.sparse[static_cast<std::size_t>(layer)] = false;
  }
}

/// DeepSeek: the first layers are dense, of the others every moe_layer_freq-th is sparse.
void mark_deepseek_layers(configs::Section& config, Architecture& out) {
  const auto first = config.integer("first_k_dense_replace", 0, 0, kMost);
  const auto step = config.integer("moe_layer_freq", 1, 1, kMost);
  for (std::size_t i = 0; i < out.sparse.size(); ++i) {
    const auto layer = static_cast<std::int64_t>(i);
    out.sparse[i] = layer >= first && layer % step == 0;
  }
}

void read_experts(configs::Section& config, Architecture& out) {
  const auto& family = out.model_type;
  const bool qwen = family == "qwen2_moe" || family == "qwen3_moe";
  const bool deepseek = out.latent_attention();
  out.sparse.assign(static_cast<std::size_t>(out.num_hidden_layers), true);
  const char* experts = deepseek ? "n_routed_experts"
                        : !config.has("num_experts") && config.has("num_local_experts")
                            ? "num_local_experts"
                        : family == "mixtral" ? "num_local_experts"
                                              : "num_experts";
  out.num_experts = size(config, experts);
  out.num_experts_per_tok = size(config, "num_experts_per_tok");
  if (out.num_experts_per_tok > out.num_experts) {
    config.reject("num_experts_per_tok", "expected at most " + std::string(experts) + " = " +
                                             std::to_string(out.num_experts));
  }
  out.moe_intermediate_size =
      qwen || deepseek ? size(config, "moe_intermediate_size") : size(config, "intermediate_size");
  if (qwen) mark_qwen_layers(config, out);
  if (family == "qwen2_moe") {
    out.shared_expert_width = size(config, "shared_expert_intermediate_size");
    out.shared_expert_gate = true;
  }
  if (deepseek) {
    mark_deepseek_layers(config, out);
    out.shared_expert_width =
        config.integer("n_shared_experts", 0, 0, kMost) * out.moe_intermediate_size;
    out.router_bias = family != "deepseek_v2";
  }
  if (std::find(out.sparse.begin(), out.sparse.end(), false) != out.sparse.end())
    out.intermediate_size = size(config, "intermediate_size");
}

std::string name_of(configs::Section& config, const std::string& file) {
  auto given = config.text("_name_or_path", "");
  if (!given.empty()) return given;
  const std::filesystem::path path(file);
  if (path.filename() != "config.json") return path.stem().string();
  const auto folder = std::filesystem::absolute(path).lexically_normal().parent_path().filename();
  return folder.empty() ? file : folder.string();
}

/// Sizes that are allowed one by one may be more than can be counted together.
void check_size(const Architecture& a, const std::string& file) {
  constexpr double kMost = 1e15;
  const auto real = [](std::int64_t value) { return static_cast<double>(value); };
  const double width = 4 * real(a.num_attention_heads) *
                           (real(a.head_dim) + real(a.query_key_dim()) + real(a.value_dim())) +
                       3 * real(a.intermediate_size) + 3 * real(a.shared_expert_width) +
                       3 * real(a.num_experts) * real(a.moe_intermediate_size);
  if (real(a.hidden_size) * (real(a.num_hidden_layers) * width + 2 * real(a.vocab_size)) > kMost)
    throw configs::ConfigError(file + ": describes more than 1e15 parameters, a damaged file");
}

}  // namespace

std::int64_t Architecture::query_key_dim() const {
  return latent_attention() ? qk_nope_head_dim + qk_rope_head_dim : head_dim;
}

std::int64_t Architecture::value_dim() const { return latent_attention() ? v_head_dim : head_dim; }

Architecture parse_architecture(const std::string& text, const std::string& file) {
  const auto document = configs::Document::json(text, file);
  auto config = document.root();
  Architecture out;
  out.model_type =
      config.choice("model_type", {"llama", "qwen2", "qwen3", "mixtral", "qwen2_moe", "qwen3_moe",
                                   "olmoe", "deepseek_v2", "deepseek_v3", "kimi_k2"});
  document.check();  // what else is read depends on the family
  out.name = name_of(config, file);
  out.published = config.text("_published_size", "");
  out.hidden_size = size(config, "hidden_size");
  out.num_hidden_layers = config.integer("num_hidden_layers", {}, 1, 10000);
  out.vocab_size = size(config, "vocab_size");
  out.tie_word_embeddings = config.boolean("tie_word_embeddings", false);
  out.num_attention_heads = size(config, "num_attention_heads");
  const bool deepseek = out.model_type.starts_with("deepseek") || out.model_type == "kimi_k2";
  const bool dense =
      out.model_type == "llama" || out.model_type == "qwen2" || out.model_type == "qwen3";
  if (deepseek) {
    read_latent_attention(config, out);
  } else {
    read_grouped_query_attention(config, out);
  }
  if (dense) {
    out.sparse.assign(static_cast<std::size_t>(out.num_hidden_layers), false);
    out.intermediate_size = size(config, "intermediate_size");
    out.mlp_bias = out.model_type == "llama" && config.boolean("mlp_bias", false);
  } else {
    read_experts(config, out);
  }
  document.check();
  check_size(out, file);
  return out;
}

Architecture read_architecture(const std::string& path) {
  const bool folder = std::filesystem::is_directory(path);
  const auto file = folder ? (std::filesystem::path(path) / "config.json").string() : path;
  std::ifstream in(file, std::ios::binary);
  if (!in || std::filesystem::is_directory(file)) {
    throw configs::ConfigError(file + ": cannot be opened" +
                               (folder ? "; the folder of a model holds a config.json" : ""));
  }
  return parse_architecture({std::istreambuf_iterator<char>(in), {}}, file);
}

}  // namespace tailor::trainer::plan
