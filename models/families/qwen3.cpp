#include "models/families/qwen3.hpp"

#include "models/families/config_fields.hpp"

namespace tailor::models::qwen3 {

std::unique_ptr<CausalLM> make(configs::Section config) {
  auto c = read_decoder_config(config);
  c.shape.model_type = "qwen3";
  c.attention.qk_norm = true;
  c.attention.qkv_bias = c.attention.output_bias = config.boolean("attention_bias", false);
  refuse_sliding_window(config);
  finish_config(config);
  return make_dense_decoder(c);
}

}  // namespace tailor::models::qwen3
