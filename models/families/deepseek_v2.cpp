#include "models/families/deepseek_v2.hpp"

#include "models/families/deepseek_fields.hpp"

namespace tailor::models::deepseek_v2 {

std::unique_ptr<CausalLM> make(configs::Section config) {
  auto c = read_latent_decoder_config(config);
  c.shape.model_type = "deepseek_v2";
  auto moe = read_deepseek_moe_config(config, c);
  // The authors' code and transformers disagree about what it does to the scale.
  if (moe.router.norm_topk_prob)
    config.reject("norm_topk_prob", "expected false: no published model of this family sets it");
  config.choice("scoring_func", {"softmax"}, "softmax");
  if (config.choice("topk_method", {"greedy", "group_limited_greedy"}, "greedy") == "greedy") {
    config.ignore("n_group");
    config.ignore("topk_group");
  } else {
    read_groups(config, moe.router, RouterConfig::GroupScore::Max);
  }
  const auto sparse = read_layers_behind_dense(config, c.shape.num_hidden_layers);
  finish_deepseek_config(config);
  return make_moe_decoder(c, moe, sparse);
}

}  // namespace tailor::models::deepseek_v2
