#include "models/families/config_fields.hpp"

#include <algorithm>
#include <array>
#include <optional>

namespace tailor::models {
namespace {

/// Says who made the file, how it was trained or how to sample: nothing that forward depends on.
constexpr std::array kHarmless{"architectures",
                               "attn_implementation",
                               "auto_map",
                               "bos_token_id",
                               "chunk_size_feed_forward",
                               "dtype",
                               "eos_token_id",
                               "id2label",
                               "initializer_range",
                               "is_llama_config",
                               "label2id",
                               "max_window_layers",
                               "model_type",
                               "output_attentions",
                               "output_hidden_states",
                               "pad_token_id",
                               "problem_type",
                               "return_dict",
                               "task_specific_params",
                               "torch_dtype",
                               "transformers.js_config",
                               "transformers_version",
                               "use_cache",
                               "unsloth_version",
                               "unsloth_fixed"};

}  // namespace

DecoderConfig read_decoder_config(configs::Section& config) {
  constexpr std::int64_t kMost = 1 << 24;  // a size beyond is a damaged file
  DecoderConfig out;
  auto& s = out.shape;
  auto& a = out.attention;
  const auto size = [&](const char* key, std::optional<std::int64_t> fallback = {}) {
    return config.integer(key, fallback, 1, kMost);
  };
  s.vocab_size = size("vocab_size");
  s.hidden_size = a.hidden_size = size("hidden_size");
  s.num_hidden_layers = config.integer("num_hidden_layers", {}, 1, 10000);
  s.max_position_embeddings = config.integer("max_position_embeddings", {}, 1);
  out.intermediate_size = size("intermediate_size");
  a.num_attention_heads = size("num_attention_heads");
  s.num_key_value_heads = a.num_key_value_heads =
      size("num_key_value_heads", a.num_attention_heads);
  s.head_dim = a.head_dim =
      size("head_dim", std::max<std::int64_t>(1, a.hidden_size / a.num_attention_heads));
  out.rms_norm_eps = a.rms_norm_eps = config.number("rms_norm_eps", {}, {.min = 0.0});
  out.tie_word_embeddings = config.boolean("tie_word_embeddings", false);
  config.choice("hidden_act", {"silu"});
  if (a.num_attention_heads % a.num_key_value_heads != 0)
    config.reject("num_key_value_heads", "expected a divisor of num_attention_heads = " +
                                             std::to_string(a.num_attention_heads));
  if (a.head_dim % 2 != 0) config.reject("head_dim", "expected an even number");
  if (config.number("attention_dropout", 0.0) != 0.0)
    config.reject("attention_dropout", "expected 0: attention dropout is not supported");
  out.rope = read_rope(config, a.head_dim);
  return out;
}

void refuse_sliding_window(configs::Section& config) {
  if (config.boolean("use_sliding_window", false))
    config.reject("use_sliding_window", "expected false: sliding windows are not supported");
  config.ignore("sliding_window");  // without effect while the switch is off
  for (const auto& kind : config.names("layer_types", /*required=*/false)) {
    if (kind != "full_attention")
      config.reject("layer_types", "expected full_attention in every layer");
  }
}

void finish_config(configs::Section& config) {
  for (const auto* key : kHarmless) config.ignore(key);
  for (const auto& key : config.keys()) {
    if (key.starts_with('_') || config.is_empty(key)) config.ignore(key);
  }
  if (!config.is_empty("quantization_config"))
    config.reject("quantization_config",
                  "expected none: quantized weights are not supported, bfloat16 ones are");
  config.finish();
}

}  // namespace tailor::models
