#include "models/families/qwen3_moe.hpp"

#include "models/families/moe_fields.hpp"

namespace tailor::models::qwen3_moe {

std::unique_ptr<CausalLM> make(configs::Section config) {
  auto c = read_decoder_config(config);
  c.shape.model_type = "qwen3_moe";
  c.attention.qk_norm = true;
  c.attention.qkv_bias = c.attention.output_bias = config.boolean("attention_bias", false);
  refuse_sliding_window(config);
  auto moe = read_moe_config(config, c);
  moe.moe_intermediate_size = config.positive("moe_intermediate_size");
  const auto sparse = read_sparse_layers(config, c.shape.num_hidden_layers);
  finish_config(config);
  return make_moe_decoder(c, moe, sparse);
}

}  // namespace tailor::models::qwen3_moe
