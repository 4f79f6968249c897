// T tokens, D hidden_size.
#include "trainer/bench/moe.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>

#include <memory>
#include <string>
#include <vector>

#include "models/layers/moe.hpp"
#include "peft/grouped_lora.hpp"
#include "trainer/bench/clock.hpp"

namespace tailor::trainer {
namespace {

using models::kernels::Arithmetic;

std::unique_ptr<models::MoeBlock> random_block(const MoeShape& shape, Arithmetic arithmetic) {
  models::MoeConfig config;
  config.router = {.num_experts = shape.num_experts,
                   .num_experts_per_tok = shape.num_experts_per_tok,
                   .norm_topk_prob = true};
  config.hidden_size = shape.hidden_size;
  config.moe_intermediate_size = shape.moe_intermediate_size;
  auto block = std::make_unique<models::MoeBlock>(config, /*layer=*/0);
  const auto dtype = models::kernels::activation_dtype(arithmetic);
  for (const auto& parameter : block->parameters())
    *parameter.value = (at::randn(parameter.shape, at::kFloat) * 0.02).to(dtype);
  block->finish_loading(arithmetic);
  return block;
}

/// Wraps every expert's matrices, as the adapter of a whole model does.
std::vector<std::shared_ptr<peft::GroupedLoraLinear>> seat_lora(models::MoeBlock& block,
                                                                std::int64_t r) {
  peft::LoraConfig config;
  config.r = r;
  config.lora_alpha = 2.0 * static_cast<double>(r);
  std::vector<std::shared_ptr<peft::GroupedLoraLinear>> out;
  for (const auto& named : block.grouped_slots())
    named.slot->rewrap([&](auto inner) {
      out.push_back(std::make_shared<peft::GroupedLoraLinear>(
          std::move(inner), named.name, named.slot->projection(), config, /*seed=*/0, "bench moe"));
      return out.back();
    });
  return out;
}

}  // namespace

MoeSpeed measure_moe(const MoeShape& shape, Arithmetic arithmetic, std::int64_t r) {
  const auto block = random_block(shape, arithmetic);
  const auto lora = r > 0 ? seat_lora(*block, r) : decltype(seat_lora(*block, r)){};
  const auto dtype = models::kernels::activation_dtype(arithmetic);
  auto x_TD = at::randn({shape.tokens, shape.hidden_size}, dtype).requires_grad_();
  const auto dy_TD = at::randn({shape.tokens, shape.hidden_size}, dtype);
  const models::Batch batch;
  const models::LayerContext context{batch, {}};

  MoeSpeed speed;
  speed.seconds = median_seconds([&] {
    x_TD.mutable_grad() = at::Tensor();
    for (const auto& layer : lora)
      for (auto* factor : {&layer->A(), &layer->B()}) factor->mutable_grad() = at::Tensor();
    block->forward(x_TD, context).backward(dy_TD);
  });
  const auto multiplied = shape.num_experts_per_tok * 3 * shape.moe_intermediate_size +
                          shape.num_experts;  // times hidden_size: parameters that a token meets
  const auto tokens = static_cast<double>(shape.tokens);
  speed.tokens_per_second = tokens / speed.seconds;
  speed.gflops =
      4e-9 * static_cast<double>(multiplied * shape.hidden_size) * tokens / speed.seconds;
  return speed;
}

}  // namespace tailor::trainer
