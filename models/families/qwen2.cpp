#include "models/families/qwen2.hpp"

#include "models/families/config_fields.hpp"

namespace tailor::models::qwen2 {

std::unique_ptr<CausalLM> make(configs::Section config) {
  auto c = read_decoder_config(config);
  c.shape.model_type = "qwen2";
  c.attention.qkv_bias = true;
  refuse_sliding_window(config);
  finish_config(config);
  return make_dense_decoder(c);
}

}  // namespace tailor::models::qwen2
