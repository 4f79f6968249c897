#include "models/families/qwen2_moe.hpp"

#include "models/families/moe_fields.hpp"

namespace tailor::models::qwen2_moe {

std::unique_ptr<CausalLM> make(configs::Section config) {
  auto c = read_decoder_config(config);
  c.shape.model_type = "qwen2_moe";
  c.attention.qkv_bias = config.boolean("qkv_bias", true);
  refuse_sliding_window(config);
  auto moe = read_moe_config(config, c);
  moe.moe_intermediate_size = config.positive("moe_intermediate_size");
  moe.shared_intermediate_size = config.positive("shared_expert_intermediate_size");
  moe.shared_expert_gate = true;
  moe.names.shared_expert = "shared_expert";
  const auto sparse = read_sparse_layers(config, c.shape.num_hidden_layers);
  finish_config(config);
  return make_moe_decoder(c, moe, sparse);
}

}  // namespace tailor::models::qwen2_moe
