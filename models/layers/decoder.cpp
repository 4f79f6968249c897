#include "models/layers/decoder.hpp"

#include <string>
#include <utility>

namespace tailor::models {

DecoderLayer::DecoderLayer(std::unique_ptr<AttentionBlock> attention,
                           std::unique_ptr<FeedForward> mlp, std::int64_t hidden_size,
                           double rms_norm_eps, const std::string& mlp_name)
    : self_attn_(std::move(attention)),
      mlp_(std::move(mlp)),
      input_layernorm_(hidden_size, rms_norm_eps),
      post_attention_layernorm_(hidden_size, rms_norm_eps) {
  add_child("self_attn", *self_attn_);
  add_child(mlp_name, *mlp_);
  add_child("input_layernorm", input_layernorm_);
  add_child("post_attention_layernorm", post_attention_layernorm_);
}

DecoderLayer::Stream DecoderLayer::forward(const Stream& stream,
                                           const LayerContext& context) const {
  auto [x_TD, y_TD] = stream.delta_TD.defined()
                          ? input_layernorm_.add_and_norm(stream.x_TD, stream.delta_TD)
                          : std::pair(stream.x_TD, input_layernorm_.forward(stream.x_TD));
  const auto enter = [&](const at::Tensor& x) {
    return region_ ? region_->enter(x, context.scattered) : x;
  };
  const auto leave = [&](const at::Tensor& x) {
    return region_ ? region_->leave(x, context.scattered) : x;
  };
  const auto attended_TD = leave(self_attn_->forward(enter(y_TD), context));
  auto [sum_TD, z_TD] = post_attention_layernorm_.add_and_norm(x_TD, attended_TD);
  return {sum_TD, leave(mlp_->forward(enter(z_TD), context))};
}

void DecoderLayer::finish_loading(kernels::Arithmetic arithmetic) {
  self_attn_->finish_loading(arithmetic);
  mlp_->finish_loading(arithmetic);
  input_layernorm_.finish_loading();
  post_attention_layernorm_.finish_loading();
}

Decoder::Decoder(std::int64_t vocab_size, std::int64_t hidden_size, double rms_norm_eps,
                 std::vector<std::unique_ptr<DecoderLayer>> layers, const RopeConfig& rope)
    : embed_tokens_(vocab_size, hidden_size),
      layers_(std::move(layers)),
      norm_(hidden_size, rms_norm_eps),
      frequency_F_(rope_frequencies(rope)) {
  add_child("embed_tokens", embed_tokens_);
  for (std::size_t i = 0; i < layers_.size(); ++i)
    add_child("layers." + std::to_string(i), *layers_[i]);
  add_child("norm", norm_);
}

at::Tensor Decoder::forward(const Batch& batch, kernels::Arithmetic arithmetic) const {
  // Decoding keeps its few tokens together, whatever their number.
  const bool scattered =
      region_ && batch.cache == nullptr && batch.num_tokens() % region_->size() == 0;
  const LayerContext context{batch, rope_angles(batch.positions_T, frequency_F_), scattered};
  auto x_TD = embed_tokens_.forward(batch.ids_T, kernels::activation_dtype(arithmetic));
  if (region_) x_TD = region_->leave(x_TD, scattered);
  DecoderLayer::Stream stream{x_TD, {}};
  for (const auto& layer : layers_) stream = layer->forward(stream, context);
  const auto out_TD = stream.delta_TD.defined()
                          ? norm_.add_and_norm(stream.x_TD, stream.delta_TD).second
                          : norm_.forward(stream.x_TD);
  return region_ ? region_->enter(out_TD, scattered) : out_TD;
}

void Decoder::set_region(const std::shared_ptr<Region>& region) {
  region_ = region;
  for (const auto& layer : layers_) layer->set_region(region);
}

void Decoder::finish_loading(kernels::Arithmetic arithmetic) {
  for (const auto& layer : layers_) layer->finish_loading(arithmetic);
  norm_.finish_loading();
}

}  // namespace tailor::models
