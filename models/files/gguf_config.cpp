#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <string_view>

#include "models/files/gguf_model.hpp"

namespace tailor::models {
namespace {

using Json = nlohmann::ordered_json;

struct Architecture {
  std::string_view name, hf_class;
};
constexpr std::array kArchitectures = {
    Architecture{"llama", "LlamaForCausalLM"},
    Architecture{"qwen2", "Qwen2ForCausalLM"},
    Architecture{"qwen3", "Qwen3ForCausalLM"},
};

// Keys below the architecture's name that are read here or change nothing.
constexpr std::array<std::string_view, 19> kKnownKeys = {
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "expert_used_count",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "vocab_size",
};

void check_keys(const GgufHeader& header, const GgufMetadata& metadata, const std::string& arch) {
  for (const auto& [key, value] : header.metadata) {
    if (!key.starts_with(arch + ".")) continue;
    const std::string_view rest = std::string_view(key).substr(arch.size() + 1);
    if (std::find(kKnownKeys.begin(), kKnownKeys.end(), rest) == kKnownKeys.end()) {
      metadata.fail(key, "not supported: it may change what the model computes");
    }
  }
  if (metadata.integer(arch + ".expert_count", 0) != 0) {
    metadata.fail(arch + ".expert_count", "a mixture of experts is not supported from GGUF");
  }
}

const GgufHeader::Tensor* find_tensor(const GgufHeader& header, std::string_view name) {
  for (const auto& tensor : header.tensors) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

/// Llama 3's factor of the frequency with this wavelength (as in HF's `llama3` rope type, with the
/// limits 1 and 4 that every published model has).
double llama3_factor(double wavelength, double factor, double context) {
  constexpr double kLow = 1, kHigh = 4;
  if (wavelength < context / kHigh) return 1;
  if (wavelength > context / kLow) return factor;
  const double smooth = (context / wavelength - kLow) / (kHigh - kLow);
  return 1 / ((1 - smooth) / factor + smooth);
}

/// GGUF holds Llama 3's scaling as one factor a frequency, config.json as the few numbers that the
/// factors come from: those are found again and must give the same factors.
Json llama3_scaling(const GgufFile& gguf, const GgufMetadata& metadata, double theta,
                    std::int64_t head_dim) {
  const at::Tensor factors_tensor = gguf.read("rope_freqs.weight", at::kFloat);
  const float* factors = factors_tensor.const_data_ptr<float>();
  const std::int64_t count = factors_tensor.numel();
  const auto fail = [&] [[noreturn]] (const std::string& problem) {
    throw FileError(metadata.file() + ": tensor \"rope_freqs.weight\": " + problem);
  };
  if (count != head_dim / 2) {
    fail("expected " + std::to_string(head_dim / 2) + " factors, found " + std::to_string(count));
  }
  const auto wavelength = [&](std::int64_t i) {
    return 2 * std::numbers::pi *
           std::pow(theta, 2 * static_cast<double>(i) / static_cast<double>(head_dim));
  };
  const double factor = *std::max_element(factors, factors + count);
  std::int64_t context = 8192;  // of Llama 3, where no factor lies between the limits
  for (std::int64_t i = 0; i < count; ++i) {
    const double f = factors[i];
    if (!(f >= 1 && std::isfinite(f))) fail("expected factors of at least 1");
    if (f < 1.0001 || f > factor * 0.9999) continue;
    const double smooth = (1 / f - 1 / factor) / (1 - 1 / factor);
    context = std::llround(wavelength(i) * (3 * smooth + 1));
  }
  if (factor == 1) return nullptr;
  context = metadata.integer("llama.rope.scaling.original_context_length", context);
  for (std::int64_t i = 0; i < count; ++i) {
    const double expected = llama3_factor(wavelength(i), factor, static_cast<double>(context));
    if (std::abs(expected - static_cast<double>(factors[i])) > 1e-3 * expected) {
      fail("factors that are not Llama 3's are not supported");
    }
  }
  return {{"rope_type", "llama3"},
          {"factor", shortest_decimal(factor)},
          {"low_freq_factor", 1.0},
          {"high_freq_factor", 4.0},
          {"original_max_position_embeddings", context}};
}

Json rope_scaling(const GgufFile& gguf, const GgufMetadata& metadata, const std::string& arch,
                  double theta, std::int64_t head_dim) {
  if (gguf.contains("rope_freqs.weight")) {
    if (arch != "llama") {
      throw FileError(metadata.file() + ": tensor \"rope_freqs.weight\": not supported for " +
                      arch);
    }
    return llama3_scaling(gguf, metadata, theta, head_dim);
  }
  const std::string key = arch + ".rope.scaling.type";
  const double old_factor = metadata.number(arch + ".rope.scale_linear", 1.0);
  const std::string type = metadata.text(key, old_factor == 1 ? "none" : "linear");
  if (type == "none") return nullptr;
  if (type != "linear") metadata.fail(key, in_quotes(type) + " is not supported");
  const double factor = metadata.number(arch + ".rope.scaling.factor", old_factor);
  if (!(factor >= 1 && std::isfinite(factor))) {
    metadata.fail(arch + ".rope.scaling.factor", "expected a number of at least 1");
  }
  if (factor == 1) return nullptr;
  return {{"rope_type", "linear"}, {"factor", shortest_decimal(factor)}};
}

double positive_number(const GgufMetadata& metadata, const std::string& key,
                       std::optional<double> fallback = {}) {
  const double value = metadata.number(key, fallback);
  if (!(value > 0 && std::isfinite(value))) metadata.fail(key, "expected a number above 0");
  return shortest_decimal(value);
}

void add_dimensions(Json& config, const GgufFile& gguf, const GgufMetadata& metadata,
                    const std::string& arch) {
  const auto positive = [&](const std::string& key, std::optional<std::int64_t> fallback = {}) {
    const std::int64_t value = metadata.integer(arch + "." + key, fallback);
    if (value < 1) metadata.fail(arch + "." + key, "expected a number above 0");
    return value;
  };
  const auto* embedding = find_tensor(gguf.header(), "token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    throw FileError(metadata.file() + ": tensor \"token_embd.weight\": expected a matrix");
  }
  const std::int64_t hidden = positive("embedding_length");
  if (embedding->shape[1] != hidden) {
    metadata.fail(arch + ".embedding_length", "expected the embedding's " +
                                                  std::to_string(embedding->shape[1]) + ", found " +
                                                  std::to_string(hidden));
  }
  // A count out of thin air would have somebody allocate that many layers.
  const std::int64_t layers = positive("block_count");
  const std::string last = "blk." + std::to_string(layers - 1) + ".attn_norm.weight";
  if (find_tensor(gguf.header(), last) == nullptr) {
    metadata.fail(arch + ".block_count",
                  std::to_string(layers) + ", but there is no tensor " + in_quotes(last));
  }
  const std::int64_t heads = positive("attention.head_count");
  const std::int64_t head_dim = positive("attention.key_length", hidden / heads);
  for (const char* const key : {"attention.value_length", "rope.dimension_count"}) {
    if (positive(key, head_dim) != head_dim) {
      metadata.fail(arch + "." + key, "expected the head's " + std::to_string(head_dim) +
                                          ", found " + std::to_string(positive(key)));
    }
  }
  config["vocab_size"] = embedding->shape[0];
  config["hidden_size"] = hidden;
  config["intermediate_size"] = positive("feed_forward_length");
  config["num_hidden_layers"] = layers;
  config["num_attention_heads"] = heads;
  config["num_key_value_heads"] = positive("attention.head_count_kv", heads);
  config["head_dim"] = head_dim;
  config["max_position_embeddings"] = positive("context_length");
}

}  // namespace

std::string gguf_config_json(const GgufFile& gguf, const GgufMetadata& metadata) {
  const std::string arch = metadata.text("general.architecture");
  const auto known = std::find_if(kArchitectures.begin(), kArchitectures.end(),
                                  [&](const Architecture& a) { return a.name == arch; });
  if (known == kArchitectures.end()) {
    metadata.fail("general.architecture",
                  "expected llama, qwen2 or qwen3, found " + in_quotes(arch));
  }
  check_keys(gguf.header(), metadata, arch);

  Json config;
  config["architectures"] = {known->hf_class};
  config["model_type"] = arch;
  add_dimensions(config, gguf, metadata, arch);
  config["hidden_act"] = "silu";
  config["rms_norm_eps"] = positive_number(metadata, arch + ".attention.layer_norm_rms_epsilon");
  const double theta = positive_number(metadata, arch + ".rope.freq_base", 10000.0);
  config["rope_theta"] = theta;
  config["rope_scaling"] =
      rope_scaling(gguf, metadata, arch, theta, config["head_dim"].get<std::int64_t>());
  if (arch != "qwen2") config["attention_bias"] = gguf.contains("blk.0.attn_q.bias");
  if (arch == "llama") config["mlp_bias"] = gguf.contains("blk.0.ffn_gate.bias");
  if (arch != "llama") config["use_sliding_window"] = false;
  config["tie_word_embeddings"] = !gguf.contains("output.weight");
  for (const auto& [name, key] : {std::pair("bos_token_id", "tokenizer.ggml.bos_token_id"),
                                  std::pair("pad_token_id", "tokenizer.ggml.padding_token_id")}) {
    if (metadata.has(key)) config[name] = metadata.integer(key);
  }
  const auto eos = gguf_eos_ids(metadata);
  if (eos.size() == 1) config["eos_token_id"] = eos[0];
  if (eos.size() > 1) config["eos_token_id"] = eos;
  return config.dump(2) + "\n";
}

}  // namespace tailor::models
