#include "models/families/mixtral.hpp"

#include "models/families/moe_fields.hpp"

namespace tailor::models::mixtral {

std::unique_ptr<CausalLM> make(configs::Section config) {
  auto c = read_decoder_config(config);
  c.shape.model_type = "mixtral";
  if (config.has("sliding_window"))
    config.reject("sliding_window", "expected null: sliding windows are not supported");
  auto moe = read_moe_config(config, c);
  moe.moe_intermediate_size = c.intermediate_size;
  moe.router.norm_topk_prob = true;
  moe.names = {.gate_proj = "w1", .up_proj = "w3", .down_proj = "w2"};
  if (config.number("router_jitter_noise", 0.0) != 0.0)
    config.reject("router_jitter_noise", "expected 0: noise on the router is not supported");
  finish_config(config);
  const auto layers = static_cast<std::size_t>(c.shape.num_hidden_layers);
  return make_moe_decoder(c, moe, std::vector<bool>(layers, true), "block_sparse_moe");
}

}  // namespace tailor::models::mixtral
