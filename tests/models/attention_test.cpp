#include "models/layers/attention.hpp"

#include <ATen/ATen.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <optional>
#include <vector>

#include "models/layers/kv_cache.hpp"

using namespace tailor::models;

namespace {

RopeAngles angles_for(const at::Tensor& positions_T, std::int64_t head_dim) {
  return rope_angles(positions_T, rope_frequencies({.head_dim = head_dim}));
}

}  // namespace

TEST_CASE("attention equals its reference, forward and backward", "[models]") {
  at::manual_seed(0);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const std::int64_t value_dim = GENERATE(8, 5);  // 5: with a given scale, and nothing is rotated
  CAPTURE(dtype, value_dim);
  auto q = at::randn({9, 4, 8}, dtype).requires_grad_(),
       k = at::randn({9, 2, 8}, dtype).requires_grad_(),
       v = at::randn({9, 2, value_dim}, dtype).requires_grad_();
  const std::vector<std::int64_t> offsets{0, 1, 4, 4, 9};  // one document is empty
  const bool plain_heads = value_dim == 8;
  const auto scale = plain_heads ? std::optional<double>() : 0.6;
  const auto angles = plain_heads
                          ? angles_for(at::tensor({0, 0, 1, 2, 0, 1, 2, 3, 4}, at::kLong), 8)
                          : RopeAngles();
  const auto g = at::randn({9, 4, value_dim}, dtype);
  const auto run = [&](auto f) {
    for (auto* t : {&q, &k, &v}) t->mutable_grad() = at::Tensor();
    const auto y = f(q, k, v, angles, offsets, scale);
    y.backward(g);
    return std::vector<at::Tensor>{y.detach(), q.grad(), k.grad(), v.grad()};
  };
  const auto fast = run(causal_attention), plain = run(causal_attention_reference);
  const double tolerance = dtype == at::kFloat ? 1e-5 : 5e-2;
  for (std::size_t i = 0; i < 4; ++i) CHECK(at::allclose(fast[i], plain[i], tolerance, tolerance));
}

TEST_CASE("attention over several blocks of queries equals its reference", "[models]") {
  at::manual_seed(0);
  const std::int64_t value_dim = GENERATE(16, 8, 24);
  CAPTURE(value_dim);
  const std::optional<double> scale;
  const std::vector<std::int64_t> offsets{0, 300, 428, 429, 559};  // 3 blocks, 1, a token, 2
  const auto length = offsets.back();
  auto q = at::randn({length, 6, 16}).requires_grad_(),
       k = at::randn({length, 2, 16}).requires_grad_(),
       v = at::randn({length, 2, value_dim}).requires_grad_();
  std::vector<at::Tensor> positions;
  for (std::size_t d = 0; d + 1 < offsets.size(); ++d)
    positions.push_back(at::arange(offsets[d + 1] - offsets[d], at::kLong));
  const auto angles = angles_for(at::cat(positions), 16);
  const auto g = at::randn({length, 6, value_dim});
  const auto run = [&](auto f) {
    for (auto* t : {&q, &k, &v}) t->mutable_grad() = at::Tensor();
    const auto y = f(q, k, v, angles, offsets, scale);
    y.backward(g);
    return std::vector<at::Tensor>{y.detach(), q.grad(), k.grad(), v.grad()};
  };
  const auto fast = run(causal_attention), plain = run(causal_attention_reference);
  for (std::size_t i = 0; i < 4; ++i) CHECK(at::allclose(fast[i], plain[i], 1e-4, 1e-5));
}

TEST_CASE("decoding token by token equals one forward over the whole document", "[models]") {
  at::manual_seed(0);
  const std::int64_t length = 11, prompt = GENERATE(1, 4, 10), value_dim = GENERATE(8, 5);
  CAPTURE(prompt, value_dim);
  const auto q = at::randn({length, 4, 8}), k = at::randn({length, 2, 8}),
             v = at::randn({length, 2, value_dim});
  const auto positions = at::arange(length, at::kLong);
  const auto whole =
      causal_attention(q, k, v, angles_for(positions, 8), std::vector<std::int64_t>{0, length});
  KvCache cache(1, 2, 8, at::kFloat, 3, length);
  std::vector<at::Tensor> parts;
  for (std::int64_t begin = 0; begin < length;) {
    const auto count = begin == 0 ? prompt : 1;
    Batch batch;
    batch.positions_T = positions.narrow(0, begin, count).contiguous();
    batch.document_offsets = {0, count};
    batch.cache = &cache;
    batch.cache_slots = {2};
    parts.push_back(cached_causal_attention(q.narrow(0, begin, count), k.narrow(0, begin, count),
                                            v.narrow(0, begin, count),
                                            angles_for(batch.positions_T, 8), batch, 0));
    begin += count;
  }
  CHECK(at::allclose(at::cat(parts), whole, 1e-5, 1e-5));
}

TEST_CASE("linear and llama3 scaling slow the frequencies as published", "[models]") {
  const RopeConfig plain{.head_dim = 64, .theta = 500000.0};
  auto linear = plain;
  linear.scaling = RopeConfig::Scaling::Linear;
  linear.factor = 4.0;
  CHECK(at::allclose(rope_frequencies(linear) * 4.0, rope_frequencies(plain)));
  auto llama3 = plain;
  llama3.scaling = RopeConfig::Scaling::Llama3;
  llama3.factor = 8.0;
  const auto ratio = rope_frequencies(plain) / rope_frequencies(llama3);
  CHECK(ratio[0].item<double>() == Approx(1.0));   // short waves stay
  CHECK(ratio[31].item<double>() == Approx(8.0));  // long ones are slowed by the factor
  CHECK((ratio.slice(0, 1) >= ratio.slice(0, 0, 31) - 1e-6).all().item<bool>());
}

TEST_CASE("YaRN slows the frequencies between its two bounds as published", "[models]") {
  const RopeConfig plain{.head_dim = 64, .theta = 50000.0};
  auto yarn = plain;
  yarn.scaling = RopeConfig::Scaling::Yarn;
  yarn.original_max_position_embeddings = 4096;
  yarn.factor = 40.0;
  const auto slowdown = [&] { return rope_frequencies(plain) / rope_frequencies(yarn); };
  const auto blended = slowdown();
  // Of transformers 5.24.0 for the same configuration: pairs 8 to 20 are blended.
  CHECK((blended.slice(0, 0, 9) - 1.0).abs().max().item<double>() < 1e-5);
  CHECK(blended[9].item<double>() == Approx(1.0884354));
  CHECK(blended[14].item<double>() == Approx(1.9512194));
  CHECK(blended[19].item<double>() == Approx(9.4117661));
  CHECK((blended.slice(0, 20) - 40.0).abs().max().item<double>() < 1e-4);
  yarn.beta_fast = yarn.beta_slow = 1.0;  // Kimi-K2: the bounds fall together
  const auto step = slowdown();
  CHECK((step.slice(0, 0, 20) - 1.0).abs().max().item<double>() < 1e-5);
  CHECK((step.slice(0, 20) - 40.0).abs().max().item<double>() < 1e-4);
}

TEST_CASE("YaRN's temperature is read from its fields", "[models]") {
  const auto read = [](const std::string& fields) {
    const auto document = tailor::configs::Document::json(
        R"({"rope_theta": 10000, "rope_scaling": {"type": "yarn", "factor": 40,
            "original_max_position_embeddings": 4096)" +
            fields + "}}",
        "config.json");
    auto root = document.root();
    const auto rope = read_rope(root, 64);
    document.check();
    return rope;
  };
  const double log40 = std::log(40.0);
  CHECK(read("").attention_factor == Approx(0.1 * log40 + 1.0));
  CHECK(softmax_scale_factor(read("")) == 1.0);
  const auto v2 = read(R"(, "mscale": 0.707, "mscale_all_dim": 0.707)");
  CHECK(v2.attention_factor == Approx(1.0));
  CHECK(softmax_scale_factor(v2) == Approx(std::pow(0.0707 * log40 + 1.0, 2.0)));
  CHECK(read(R"(, "mscale": 1.0, "mscale_all_dim": 0.5)").attention_factor ==
        Approx((0.1 * log40 + 1.0) / (0.05 * log40 + 1.0)));
  CHECK(read(R"(, "attention_factor": 1.5)").attention_factor == Approx(1.5));
  const auto angles = rope_angles(at::tensor({0, 3}, at::kLong), at::tensor({0.5F}), 2.0);
  CHECK(angles.cos_TF[0][0].item<double>() == 2.0);
  CHECK(angles.sin_TF[1][0].item<double>() == Approx(2.0 * std::sin(1.5)));
}
