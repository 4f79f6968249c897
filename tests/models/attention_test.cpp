#include "models/layers/attention.hpp"

#include <ATen/ATen.h>

#include <catch2/catch.hpp>
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
  auto q = at::randn({9, 4, 8}, dtype).requires_grad_(),
       k = at::randn({9, 2, 8}, dtype).requires_grad_(),
       v = at::randn({9, 2, 8}, dtype).requires_grad_();
  const std::vector<std::int64_t> offsets{0, 1, 4, 4, 9};  // one document is empty
  const auto angles = angles_for(at::tensor({0, 0, 1, 2, 0, 1, 2, 3, 4}, at::kLong), 8);
  const auto g = at::randn({9, 4, 8}, dtype);
  const auto run = [&](auto f) {
    for (auto* t : {&q, &k, &v}) t->mutable_grad() = at::Tensor();
    const auto y = f(q, k, v, angles, offsets);
    y.backward(g);
    return std::vector<at::Tensor>{y.detach(), q.grad(), k.grad(), v.grad()};
  };
  const auto fast = run(causal_attention), plain = run(causal_attention_reference);
  const double tolerance = dtype == at::kFloat ? 1e-5 : 5e-2;
  for (std::size_t i = 0; i < 4; ++i) CHECK(at::allclose(fast[i], plain[i], tolerance, tolerance));
}

TEST_CASE("attention over several blocks of queries equals its reference", "[models]") {
  at::manual_seed(0);
  const std::vector<std::int64_t> offsets{0, 300, 428, 429, 559};  // 3 blocks, 1, a token, 2
  const auto length = offsets.back();
  auto q = at::randn({length, 6, 16}).requires_grad_(),
       k = at::randn({length, 2, 16}).requires_grad_(),
       v = at::randn({length, 2, 16}).requires_grad_();
  std::vector<at::Tensor> positions;
  for (std::size_t d = 0; d + 1 < offsets.size(); ++d)
    positions.push_back(at::arange(offsets[d + 1] - offsets[d], at::kLong));
  const auto angles = angles_for(at::cat(positions), 16);
  const auto g = at::randn({length, 6, 16});
  const auto run = [&](auto f) {
    for (auto* t : {&q, &k, &v}) t->mutable_grad() = at::Tensor();
    const auto y = f(q, k, v, angles, offsets);
    y.backward(g);
    return std::vector<at::Tensor>{y.detach(), q.grad(), k.grad(), v.grad()};
  };
  const auto fast = run(causal_attention), plain = run(causal_attention_reference);
  for (std::size_t i = 0; i < 4; ++i) CHECK(at::allclose(fast[i], plain[i], 1e-4, 1e-5));
}

TEST_CASE("decoding token by token equals one forward over the whole document", "[models]") {
  at::manual_seed(0);
  const std::int64_t length = 11, prompt = GENERATE(1, 4, 10);
  CAPTURE(prompt);
  const auto q = at::randn({length, 4, 8}), k = at::randn({length, 2, 8}),
             v = at::randn({length, 2, 8});
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
