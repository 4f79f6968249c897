#include "models/families/olmoe.hpp"

#include "models/families/moe_fields.hpp"

namespace tailor::models::olmoe {

std::unique_ptr<CausalLM> make(configs::Section config) {
  auto c = read_decoder_config(config);
  c.shape.model_type = "olmoe";
  c.attention.qk_norm_over_heads = true;
  c.attention.qkv_bias = c.attention.output_bias = config.boolean("attention_bias", false);
  if (config.has("clip_qkv"))
    config.reject("clip_qkv", "expected null: clipped projections are not supported");
  auto moe = read_moe_config(config, c);
  moe.moe_intermediate_size = c.intermediate_size;
  finish_config(config);
  const auto layers = static_cast<std::size_t>(c.shape.num_hidden_layers);
  return make_moe_decoder(c, moe, std::vector<bool>(layers, true));
}

}  // namespace tailor::models::olmoe
