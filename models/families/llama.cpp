#include "models/families/llama.hpp"

#include "models/families/config_fields.hpp"

namespace tailor::models::llama {

std::unique_ptr<CausalLM> make(configs::Section config) {
  auto c = read_decoder_config(config);
  c.shape.model_type = "llama";
  c.attention.qkv_bias = c.attention.output_bias = config.boolean("attention_bias", false);
  c.mlp_bias = config.boolean("mlp_bias", false);
  if (config.boolean("rope_interleaved", false))
    config.reject("rope_interleaved", "expected false: interleaved rotation is not supported");
  if (config.integer("pretraining_tp", 1) != 1)
    config.reject("pretraining_tp", "expected 1: sliced projections are not supported");
  finish_config(config);
  return make_dense_decoder(c);
}

}  // namespace tailor::models::llama
