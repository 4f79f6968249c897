#include "models/families/deepseek_v3.hpp"

#include "models/families/deepseek_fields.hpp"

namespace tailor::models::deepseek_v3 {

std::unique_ptr<CausalLM> make(configs::Section config) {
  auto c = read_latent_decoder_config(config);
  c.shape.model_type = config.text("model_type");  // deepseek_v3 or kimi_k2
  c.latent_attention->rope_interleave = config.boolean("rope_interleave", true);
  auto moe = read_deepseek_moe_config(config, c);
  moe.router.score = RouterConfig::Score::Sigmoid;
  moe.router.norm_topk_prob = config.boolean("norm_topk_prob", true);
  moe.correction_bias = true;
  config.choice("scoring_func", {"sigmoid"}, "sigmoid");
  config.choice("topk_method", {"noaux_tc"}, "noaux_tc");
  read_groups(config, moe.router, RouterConfig::GroupScore::SumOfBestTwo);
  const auto sparse = read_layers_behind_dense(config, c.shape.num_hidden_layers);
  finish_deepseek_config(config);
  return make_moe_decoder(c, moe, sparse);
}

}  // namespace tailor::models::deepseek_v3
