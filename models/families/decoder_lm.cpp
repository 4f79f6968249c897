#include <utility>

#include "models/families/config_fields.hpp"

namespace tailor::models {
namespace {

class DecoderLM final : public CausalLM {
 public:
  DecoderLM(const DecoderConfig& config, std::vector<std::unique_ptr<DecoderLayer>> layers)
      : shape_(config.shape),
        model_(config.shape.vocab_size, config.shape.hidden_size, config.rms_norm_eps,
               std::move(layers), config.rope) {
    add_child("model", model_);
    if (config.tie_word_embeddings) return;
    const auto head = dense(shape_.hidden_size, shape_.vocab_size);
    lm_head_.rewrap([&](auto) { return head; });
    add_child("lm_head", lm_head_);
    untied_ = true;
  }

  const ModelShape& shape() const override { return shape_; }
  at::Tensor hidden_states(const Batch& batch) const override {
    return model_.forward(batch, arithmetic_);
  }
  const LinearSlot& lm_head() const override { return lm_head_; }
  kernels::Arithmetic arithmetic() const override { return arithmetic_; }
  at::Device device() const override { return model_.device(); }
  Decoder* decoder() override { return &model_; }

  void keep_stage(const Stage& stage) override {
    has_head_ = stage.last;
    model_.keep_stage(stage, /*with_embedding=*/stage.first || (stage.last && !untied_));
    clear_children();
    add_child("model", model_);
    if (untied_ && has_head_) add_child("lm_head", lm_head_);
  }

  void finish_loading(kernels::Arithmetic arithmetic) override {
    arithmetic_ = arithmetic;
    model_.finish_loading(arithmetic);
    if (!has_head_) return;
    if (untied_) return lm_head_.layer().finish_loading(arithmetic);
    lm_head_.rewrap(
        [&](auto) { return std::make_shared<Dense>(model_.embed_tokens().weight(), arithmetic); });
  }

 private:
  ModelShape shape_;
  Decoder model_;
  LinearSlot lm_head_{
      nullptr, Cut{Sharding::Dim::Out}};  // not a child where tied: the checkpoint has no such key
  bool untied_ = false, has_head_ = true;
  kernels::Arithmetic arithmetic_ = kernels::Arithmetic::Float32;
};

}  // namespace

std::unique_ptr<CausalLM> make_decoder(const DecoderConfig& config,
                                       std::vector<std::unique_ptr<DecoderLayer>> layers) {
  return std::make_unique<DecoderLM>(config, std::move(layers));
}

std::unique_ptr<AttentionBlock> make_attention(const DecoderConfig& config, std::int64_t layer) {
  if (config.latent_attention)
    return std::make_unique<LatentAttention>(*config.latent_attention, layer);
  return std::make_unique<SelfAttention>(config.attention, layer);
}

std::unique_ptr<CausalLM> make_dense_decoder(const DecoderConfig& config) {
  std::vector<std::unique_ptr<DecoderLayer>> layers;
  const auto hidden = config.shape.hidden_size;
  for (std::int64_t i = 0; i < config.shape.num_hidden_layers; ++i)
    layers.push_back(std::make_unique<DecoderLayer>(
        make_attention(config, i),
        std::make_unique<SwiGluMlp>(hidden, config.intermediate_size, config.mlp_bias), hidden,
        config.rms_norm_eps));
  return make_decoder(config, std::move(layers));
}

}  // namespace tailor::models
