#include "models/layers/decoder.hpp"

#include <ATen/TensorOperators.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/custom_function.h>

#include <functional>
#include <string>
#include <utility>

namespace tailor::models {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Action final : torch::CustomClassHolder {
  explicit Action(std::function<void()> f) : run(std::move(f)) {}
  std::function<void()> run;
};

/// The identity; backward acts first.
struct AtBackward : torch::autograd::Function<AtBackward> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& delta,
                               const c10::intrusive_ptr<Action>& action) {
    ctx->saved_data["action"] = c10::IValue::make_capsule(action);
    return {x.view(x.sizes()), delta.view(delta.sizes())};
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    static_cast<const Action&>(*ctx->saved_data["action"].toCapsule()).run();
    return {dy[0], dy[1], {}};
  }
};

DecoderLayer::Stream at_backward(const DecoderLayer::Stream& stream, std::function<void()> run) {
  if (!stream.delta_TD.defined()) return stream;  // the embedding: no gradient goes further
  const auto out =
      AtBackward::apply(stream.x_TD, stream.delta_TD, c10::make_intrusive<Action>(std::move(run)));
  return {out[0], out[1]};
}

}  // namespace

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
      frequency_F_(rope_frequencies(rope)),
      attention_factor_(rope.attention_factor) {
  stage_.end = static_cast<std::int64_t>(layers_.size());
  register_children(/*with_embedding=*/true);
}

void Decoder::register_children(bool with_embedding) {
  clear_children();
  if (with_embedding) add_child("embed_tokens", embed_tokens_);
  for (std::size_t i = 0; i < layers_.size(); ++i)
    add_child("layers." + std::to_string(stage_.begin + static_cast<std::int64_t>(i)), *layers_[i]);
  if (stage_.last) add_child("norm", norm_);
}

void Decoder::keep_stage(const Stage& stage, bool with_embedding) {
  TORCH_CHECK_VALUE(stage.begin >= 0 && stage.begin <= stage.end &&
                        stage.end <= static_cast<std::int64_t>(layers_.size()),
                    "decoder: no layers ", stage.begin, " to ", stage.end, " of ", layers_.size());
  layers_.erase(layers_.begin() + stage.end, layers_.end());
  layers_.erase(layers_.begin(), layers_.begin() + stage.begin);
  stage_ = stage;
  register_children(with_embedding);
}

bool Decoder::is_scattered(std::int64_t num_tokens, bool decoding) const {
  // Decoding keeps its few tokens together, whatever their number.
  return region_ && !decoding && num_tokens % region_->size() == 0;
}

std::int64_t Decoder::rows_between_stages(std::int64_t num_tokens) const {
  return is_scattered(num_tokens, /*decoding=*/false) ? num_tokens / region_->size() : num_tokens;
}

at::Tensor Decoder::forward(const Batch& batch, kernels::Arithmetic arithmetic) const {
  return forward_stage(batch, {}, arithmetic);
}

DecoderLayer::Stream Decoder::run_layer(std::size_t i, DecoderLayer::Stream stream,
                                        const LayerContext& context) const {
  if (!residency_) return layers_[i]->forward(stream, context);
  const auto layer = static_cast<std::int64_t>(i);
  stream = at_backward(stream, [residency = residency_, layer] { residency->release(layer); });
  residency_->acquire(layer, LayerResidency::Direction::Forward);
  stream = layers_[i]->forward(stream, context);
  residency_->release(layer);
  return at_backward(stream, [residency = residency_, layer] {
    residency->acquire(layer, LayerResidency::Direction::Backward);
  });
}

at::Tensor Decoder::forward_stage(const Batch& batch, const at::Tensor& x_TD,
                                  kernels::Arithmetic arithmetic) const {
  const bool scattered = is_scattered(batch.num_tokens(), batch.cache != nullptr);
  const LayerContext context{
      batch, rope_angles(batch.positions_T.to(device_), frequency_F_, attention_factor_),
      scattered};
  DecoderLayer::Stream stream{x_TD, {}};
  if (stage_.first) {
    stream.x_TD =
        embed_tokens_.forward(batch.ids_T.to(device_), kernels::activation_dtype(arithmetic));
    if (region_) stream.x_TD = region_->leave(stream.x_TD, scattered);
  }
  for (std::size_t i = 0; i < layers_.size(); ++i) stream = run_layer(i, stream, context);
  if (!stage_.last) return stream.delta_TD.defined() ? stream.x_TD + stream.delta_TD : stream.x_TD;
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
  if (stage_.last) norm_.finish_loading();
  device_ = parameters().front().value->device();
  frequency_F_ = frequency_F_.to(device_);
}

}  // namespace tailor::models
