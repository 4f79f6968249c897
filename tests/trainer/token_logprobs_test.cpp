#include "trainer/losses/token_logprobs.hpp"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <catch2/catch.hpp>

#include "models/files/pretrained.hpp"

using namespace tailor;
using models::kernels::Arithmetic;

namespace {

std::unique_ptr<models::CausalLM> tiny_llama() {
  return models::load_causal_lm(models::open_pretrained(TAILOR_GOLDEN "/tiny_llama"), at::kFloat,
                                Arithmetic::Float32);
}

double distance(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

}  // namespace

TEST_CASE("log-probabilities, entropies and their gradients are those of whole logits",
          "[trainer]") {
  at::manual_seed(0);
  const auto model = tiny_llama();
  const auto rows = GENERATE(1, 256, 300);
  const auto temperature = GENERATE(1.0, 0.7);
  const bool keep = GENERATE(true, false), with_entropy = GENERATE(true, false);
  const auto hidden = at::randn({rows, 32});
  const auto targets = at::randint(288, {rows}, at::kLong);
  const auto dlogprobs = at::randn({rows});
  const auto dentropies = with_entropy ? at::randn({rows}) : at::Tensor();

  auto x = hidden.clone().requires_grad_();
  const auto logp = (model->lm_head()(x) / temperature).log_softmax(1);
  const auto expected = logp.gather(1, targets.unsqueeze(1)).squeeze(1);
  const auto entropy = -(logp.exp() * logp).sum(1);
  auto sum = (expected * dlogprobs).sum();
  if (with_entropy) sum = sum + (entropy * dentropies).sum();
  sum.backward();

  trainer::TokenLogprobs tokens(*model, hidden, targets, temperature, {}, keep);
  CHECK(distance(tokens.logprobs(), expected) < 1e-5);
  CHECK(distance(tokens.entropies(), entropy) < 1e-5);
  CHECK(distance(tokens.backward(dlogprobs, dentropies), x.grad()) < 1e-5);
}

TEST_CASE("no rows are no trouble", "[trainer]") {
  const auto model = tiny_llama();
  trainer::TokenLogprobs none(*model, at::zeros({0, 32}), at::zeros({0}, at::kLong), 1.0);
  CHECK(none.logprobs().numel() == 0);
  CHECK(none.backward(at::zeros({0})).sizes() == at::IntArrayRef({0, 32}));
}
