#include "trainer/losses/cross_entropy.hpp"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>

#include <catch2/catch.hpp>

#include "models/files/safetensors.hpp"

using namespace tailor;
using models::kernels::Arithmetic;

namespace {
const std::string kGolden = TAILOR_GOLDEN;
}

TEST_CASE("targets are the labels shifted within each document", "[trainer]") {
  const trainer::Example a{{5, 6, 7}, {-100, 6, 7}}, b{{8, 9}, {8, -100}}, empty{{4}, {4}};
  const auto batch = trainer::make_batch({&a, &b, &empty});
  CHECK(batch.document_offsets == std::vector<std::int64_t>{0, 3, 5, 6});
  CHECK(at::equal(batch.ids_T, at::tensor({5, 6, 7, 8, 9, 4}, at::kLong)));
  CHECK(at::equal(batch.positions_T, at::tensor({0, 1, 2, 0, 1, 0}, at::kLong)));
  CHECK(at::equal(batch.targets_T, at::tensor({6, 7, -100, -100, -100, -100}, at::kLong)));
  CHECK(batch.num_supervised == 2);
}

TEST_CASE("a batch is filled up by a document without targets", "[trainer]") {
  const trainer::Example a{{5, 6, 7}, {-100, 6, 7}};
  const auto batch = trainer::make_batch({&a}, 4);
  CHECK(batch.document_offsets == std::vector<std::int64_t>{0, 3, 4});
  CHECK(at::equal(batch.ids_T, at::tensor({5, 6, 7, 0}, at::kLong)));
  CHECK(at::equal(batch.targets_T, at::tensor({6, 7, -100, -100}, at::kLong)));
  CHECK(batch.num_supervised == 2);
  CHECK(trainer::make_batch({&a}, 3).document_offsets == std::vector<std::int64_t>{0, 3});
}

TEST_CASE("bfloat16 chunks give each row's loss and gradient, filled up or not", "[trainer]") {
  if (!models::kernels::has_bf16_products()) return;
  at::manual_seed(0);
  const auto model = models::load_causal_lm(models::open_pretrained(kGolden + "/tiny_llama"),
                                            at::kBFloat16, Arithmetic::BFloat16);
  const std::int64_t tokens = GENERATE(1, 64, 300);
  const auto targets = at::randint(288, {tokens}, at::kLong);
  const auto hidden = at::randn({tokens, 32}, at::kBFloat16);
  const auto run = [&](auto loss_of) {
    auto x = hidden.clone().requires_grad_();
    const auto out = loss_of(*model, x, targets);
    out.loss.backward();
    return std::pair(out.loss.template item<double>(), x.grad().to(at::kFloat));
  };
  const auto [fast, fast_grad] =
      run([](const auto&... a) { return trainer::summed_cross_entropy(a...); });
  const auto [plain, plain_grad] = run(trainer::summed_cross_entropy_reference);
  CHECK(fast == Approx(plain).epsilon(0.01));
  CHECK((fast_grad - plain_grad).norm().item<double>() < 0.03 * plain_grad.norm().item<double>());
}

TEST_CASE("the mean loss of a tiny model equals that of transformers within 1e-5", "[trainer]") {
  const std::string name = GENERATE("tiny_llama", "tiny_llama3", "tiny_qwen2", "tiny_qwen3");
  CAPTURE(name);
  const auto model = models::load_causal_lm(models::open_pretrained(kGolden + '/' + name),
                                            at::kFloat, Arithmetic::Float32);
  const auto golden = models::open_safetensors(kGolden + '/' + name + "/golden.safetensors");
  const auto ids = golden->read("input_ids", at::kLong), labels = golden->read("labels", at::kLong),
             offsets = golden->read("document_offsets", at::kLong);
  std::vector<trainer::Example> documents;
  for (std::int64_t d = 0; d + 1 < offsets.numel(); ++d) {
    trainer::Example e;
    for (auto t = offsets[d].item<std::int64_t>(); t < offsets[d + 1].item<std::int64_t>(); ++t) {
      e.ids.push_back(ids[t].item<std::int64_t>());
      e.labels.push_back(labels[t].item<std::int64_t>());
    }
    documents.push_back(e);
  }
  std::vector<const trainer::Example*> pointers;
  for (const auto& e : documents) pointers.push_back(&e);
  const auto batch = trainer::make_batch(pointers);
  const auto sums =
      trainer::summed_cross_entropy(*model, model->hidden_states(batch), batch.targets_T).sums;
  CHECK(sums.num_tokens == batch.num_supervised);
  CHECK(sums.loss / static_cast<double>(sums.num_tokens) ==
        Approx(golden->read("loss", at::kFloat).item<double>()).margin(1e-5));
}

TEST_CASE("chunked loss and its gradient equal whole logits and autograd", "[trainer]") {
  at::manual_seed(0);
  const auto model = models::load_causal_lm(models::open_pretrained(kGolden + "/tiny_llama"),
                                            at::kFloat, Arithmetic::Float32);
  const std::int64_t tokens = GENERATE(1, 9, 700);  // 700 rows are three chunks
  const auto targets = at::randint(288, {tokens}, at::kLong);
  if (tokens > 1) targets.slice(0, 0, tokens, 3).fill_(trainer::kIgnore);
  auto hidden = at::randn({tokens, 32});
  const auto run = [&](auto loss_of) {
    auto x = hidden.clone().requires_grad_();
    const auto out = loss_of(*model, x, targets);
    (out.loss * 0.25).backward();
    return std::pair(out, x.grad());
  };
  const auto [fast, fast_grad] =
      run([](const auto&... a) { return trainer::summed_cross_entropy(a...); });
  const auto [plain, plain_grad] = run(trainer::summed_cross_entropy_reference);
  CHECK(fast.sums.num_tokens == targets.ne(trainer::kIgnore).sum().item<std::int64_t>());
  CHECK(fast.sums.loss == Approx(plain.loss.template item<double>()).epsilon(1e-5));
  CHECK(fast.sums.num_correct == plain.sums.num_correct);
  CHECK(at::allclose(fast_grad, plain_grad, 1e-4, 1e-6));
}
