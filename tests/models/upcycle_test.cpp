#include "models/files/upcycle.hpp"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_unique.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <limits>

#include "models/families/causal_lm.hpp"
#include "models/families/feed_forward_inputs.hpp"
#include "models/files/balance_router.hpp"
#include "models/files/safetensors.hpp"

using namespace tailor;
using Catch::Matchers::Contains;
using models::kernels::Arithmetic;

namespace {

namespace fs = std::filesystem;

const std::string kGolden = TAILOR_GOLDEN;

models::Pretrained dense(const std::string& name) {
  return models::open_pretrained(kGolden + '/' + name);
}

models::Batch batch_of(const std::string& name) {
  const auto file = models::open_safetensors(kGolden + '/' + name + "/golden.safetensors");
  models::Batch batch;
  batch.ids_T = file->read("input_ids", at::kLong);
  batch.positions_T = file->read("positions", at::kLong);
  const auto offsets = file->read("document_offsets", at::kLong);
  batch.document_offsets.assign(offsets.const_data_ptr<std::int64_t>(),
                                offsets.const_data_ptr<std::int64_t>() + offsets.numel());
  return batch;
}

at::Tensor logits(const models::Pretrained& pretrained, const models::Batch& batch) {
  const auto model = models::load_causal_lm(pretrained, at::kFloat, Arithmetic::Float32);
  return model->lm_head()(model->hidden_states(batch)).to(at::kFloat);
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

struct Folder {
  fs::path path = fs::temp_directory_path() / ("tailor_upcycle_" + std::to_string(getpid()));
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
};

}  // namespace

TEST_CASE("an upcycled model computes what the dense one computes", "[models]") {
  const at::NoGradGuard no_grad;
  const std::string name = GENERATE("tiny_llama", "tiny_llama3", "tiny_qwen2", "tiny_qwen3");
  const auto split = GENERATE(1, 2, 3);
  const auto active = GENERATE(1, 3);
  CAPTURE(name, split, active);
  const auto batch = batch_of(name);
  const auto sparse = models::upcycled(
      dense(name), {.num_experts = 5, .num_experts_per_tok = active, .split = split, .seed = 3});
  CHECK(largest_difference(logits(sparse, batch), logits(dense(name), batch)) < 2e-5);
}

TEST_CASE("an upcycled model goes through chosen experts, not all through the same", "[models]") {
  const at::NoGradGuard no_grad;
  const auto sparse = models::upcycled(dense("tiny_llama"), {.split = 2});
  const auto model = models::load_causal_lm(sparse, at::kFloat, Arithmetic::Float32);
  CHECK(model->shape().model_type == "mixtral");
  models::RoutingTrace trace;
  auto batch = batch_of("tiny_llama");
  batch.trace = &trace;
  model->hidden_states(batch);
  REQUIRE(trace.layers.size() == 3);
  for (const auto& [number, layer] : trace.layers) {
    CHECK(layer.logits_TE.size(1) == 16);
    REQUIRE(layer.ids_TK.size(1) == 4);
    CHECK(std::get<0>(at::_unique(layer.ids_TK)).numel() == 16);  // of a whole text
    // Both parts of a copy or none: the sorted ids are 2c, 2c + 1, 2d, 2d + 1.
    const auto ids_TK = std::get<0>(layer.ids_TK.to(at::kLong).sort(1));
    CHECK(at::equal(ids_TK.slice(1, 0, 4, 2) + 1, ids_TK.slice(1, 1, 4, 2)));
    CHECK(ids_TK.slice(1, 0, 4, 2).remainder(2).eq(0).all().item<bool>());
  }
}

namespace {

/// The most chosen expert's tokens in shares of the mean.
double busiest(const at::Tensor& logits_TE, std::int64_t k) {
  const auto ids = std::get<1>(logits_TE.topk(k, 1)).reshape({-1});
  const auto counts = ids.bincount({}, logits_TE.size(1)).to(at::kDouble);
  return (counts.max() / counts.mean()).item<double>();
}

}  // namespace

TEST_CASE("a balanced router sends equally many tokens to every expert", "[models]") {
  at::manual_seed(1);
  const auto k = GENERATE(1, 2, 4);
  const auto router_ED = at::randn({8, 48}) * 0.02;
  // A part that is common to all tokens, and directions of very different spread.
  const auto common_D = 3 * at::randn({48}), spread_D = at::rand({48}).pow(2);
  const auto tokens = [&](std::int64_t count) {
    return common_D + at::randn({count, 48}) * spread_D;
  };
  const auto x_TD = tokens(2048), other_TD = tokens(4096);
  const auto balanced_ED = models::balance_router(router_ED, x_TD, k);
  CHECK(busiest(at::matmul(x_TD, router_ED.t()), k) > 1.5);
  CHECK(busiest(at::matmul(x_TD, balanced_ED.t()), k) < 1.05);
  CHECK(busiest(at::matmul(other_TD, balanced_ED.t()), k) < 1.3);
  CHECK(balanced_ED.scalar_type() == at::kFloat);
  CHECK(at::equal(balanced_ED, models::balance_router(router_ED, x_TD, k)));
  CHECK_THROWS_AS(models::balance_router(router_ED, x_TD.narrow(0, 0, 1), k), c10::ValueError);
  const auto same_TD = common_D.expand({5, 48});
  CHECK(at::equal(models::balance_router(router_ED, same_TD, k), router_ED));
}

TEST_CASE("an upcycled model is balanced on what its feed-forwards read", "[models]") {
  const at::NoGradGuard no_grad;
  const std::string name = GENERATE("tiny_llama", "tiny_qwen2", "tiny_qwen3");
  const auto batch = batch_of(name);
  const auto pretrained = dense(name);
  const auto model = models::load_causal_lm(pretrained, at::kFloat, Arithmetic::Float32);
  const auto hidden = model->hidden_states(batch);
  models::UpcycleOptions options{.num_experts = 4, .split = 2};
  options.router_inputs = models::feed_forward_inputs(*model, batch);
  CHECK(at::equal(model->hidden_states(batch), hidden));  // the model is as before

  const auto sparse = models::upcycled(pretrained, options);
  CHECK(largest_difference(logits(sparse, batch), logits(pretrained, batch)) < 2e-5);
  options.router_inputs.pop_back();
  CHECK_THROWS_WITH(models::upcycled(pretrained, options), Contains("router_inputs"));

  const auto experts = models::load_causal_lm(sparse, at::kFloat, Arithmetic::Float32);
  models::RoutingTrace trace;
  auto traced = batch;
  traced.trace = &trace;
  experts->hidden_states(traced);
  for (const auto& [number, layer] : trace.layers) {
    CAPTURE(name, number, batch.num_tokens());
    // Of a few tokens, so one more or less of an expert is much.
    const auto slack = 4.0 * 2.0 / static_cast<double>(2 * batch.num_tokens());
    CHECK(busiest(layer.logits_TE, 4) < 1.05 + slack);
  }
}

TEST_CASE("noise moves every expert by its share of the weights' deviation", "[models]") {
  const at::NoGradGuard no_grad;
  const auto model = dense("tiny_qwen3");
  const auto noisy = models::upcycled(model, {.noise = 0.1, .seed = 1});
  const auto batch = batch_of("tiny_qwen3");
  CHECK(largest_difference(logits(noisy, batch), logits(model, batch)) > 1e-3);
  const auto weight = model.tensors->read("model.layers.1.mlp.up_proj.weight", at::kFloat);
  const auto expert = [&](const models::Pretrained& sparse, int e) {
    return sparse.tensors->read(
        "model.layers.1.mlp.experts." + std::to_string(e) + ".up_proj.weight", at::kFloat);
  };
  const auto first = expert(noisy, 0) - weight, second = expert(noisy, 1) - weight;
  const auto expected = 0.1 * weight.std().item<double>();
  // 1536 draws: four standard errors are 7 %.
  CHECK(first.std().item<double>() == Approx(expected).epsilon(0.08));
  CHECK(std::abs((first * second).mean().item<double>()) < 0.1 * expected * expected);
  CHECK(at::equal(expert(noisy, 0), expert(models::upcycled(model, {.noise = 0.1, .seed = 1}), 0)));
  CHECK_FALSE(
      at::equal(expert(noisy, 0), expert(models::upcycled(model, {.noise = 0.1, .seed = 2}), 0)));
}

TEST_CASE("routers are small, differ by layer and are the seed's", "[models]") {
  const auto model = dense("tiny_llama");
  const auto router = [&](std::uint64_t seed, int layer) {
    const auto name = "model.layers." + std::to_string(layer) + ".block_sparse_moe.gate.weight";
    return models::upcycled(model, {.num_experts = 64, .seed = seed})
        .tensors->read(name, at::kFloat);
  };
  CHECK(router(0, 0).std().item<double>() == Approx(0.02).epsilon(0.08));
  CHECK(at::equal(router(0, 0), router(0, 0)));
  CHECK_FALSE(at::equal(router(0, 0), router(0, 1)));
  CHECK_FALSE(at::equal(router(0, 0), router(1, 0)));
}

TEST_CASE("what a family takes for granted is spelled out for the sparse one", "[models]") {
  auto model = dense("tiny_llama");
  model.config_json = R"({"model_type": "llama", "vocab_size": 288, "hidden_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 1024, "rms_norm_eps": 1e-6, "hidden_act": "silu"})";
  const auto config = models::upcycled(model, {}).config_json;
  CHECK_THAT(config, Contains("\"rope_theta\": 10000.0"));  // mixtral's would be a million
  CHECK_THAT(config, Contains("\"num_key_value_heads\": 4"));
  CHECK_THAT(config, Contains("\"tie_word_embeddings\": false"));
  CHECK_THAT(config, Contains("\"sliding_window\": null"));
}

TEST_CASE("an upcycled model that was written is the one that was read", "[models]") {
  const at::NoGradGuard no_grad;
  const Folder folder;
  const std::string name = GENERATE("tiny_llama3", "tiny_qwen2", "tiny_qwen3");
  const auto sparse = models::upcycled(dense(name), {.split = 2});
  models::write_hf_directory(sparse, folder.path / name, at::kFloat);
  const auto batch = batch_of(name);
  CHECK(
      at::equal(logits(models::open_pretrained(folder.path / name), batch), logits(sparse, batch)));
  CHECK_THROWS_WITH(models::write_hf_directory(sparse, folder.path / name, at::kFloat),
                    Contains("exists already"));
}

TEST_CASE("what cannot be upcycled is refused by name", "[models]") {
  const auto model = dense("tiny_llama");
  const auto refuse = [&](const models::UpcycleOptions& options, const std::string& text) {
    CHECK_THROWS_AS(models::upcycled(model, options), configs::ConfigError);
    CHECK_THROWS_WITH(models::upcycled(model, options), Contains(text));
  };
  refuse({.num_experts = 4, .num_experts_per_tok = 5},
         "num_experts_per_tok: expected 1 to num_experts = 4, found 5");
  refuse({.num_experts_per_tok = 0}, "num_experts_per_tok");
  refuse({.num_experts = 0}, "num_experts: expected 1 to");
  refuse({.split = 5}, "split: expected a divisor of intermediate_size = 48");
  refuse({.split = 0}, "split");
  refuse({.noise = -0.1}, "noise");
  refuse({.noise = std::numeric_limits<double>::quiet_NaN()}, "noise");

  CHECK_THROWS_AS(models::upcycled(dense("tiny_mixtral"), {}), models::FileError);
  CHECK_THROWS_WITH(models::upcycled(dense("tiny_mixtral"), {}),
                    Contains("model_type") && Contains("mixtral"));
  auto biased = model;
  const std::string off = "\"mlp_bias\": false", on = "\"mlp_bias\": true";
  const auto place = biased.config_json.find(off);
  REQUIRE(place != std::string::npos);
  biased.config_json.replace(place, off.size(), on);
  CHECK_THROWS_WITH(models::upcycled(biased, {}), Contains("mlp_bias"));
}
