#include "models/layers/attention.hpp"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/tensor.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <optional>
#include <vector>

#include "models/layers/kv_cache.hpp"
#include "models/prompt_group.hpp"

using namespace tailor::models;

namespace {

RopeAngles angles_for(const at::Tensor& positions_T, std::int64_t head_dim) {
  return rope_angles(positions_T, rope_frequencies({.head_dim = head_dim}));
}

/// What causal_attention answers and its gradients for the same inputs and the same gradient.
std::vector<at::Tensor> run_and_differentiate(decltype(causal_attention)* attention,
                                              std::vector<at::Tensor> qkv, const RopeAngles& angles,
                                              const kernels::Documents& documents,
                                              std::optional<double> scale, const at::Tensor& g) {
  for (auto& x : qkv) x = x.detach().requires_grad_();
  const auto y = attention(qkv[0], qkv[1], qkv[2], angles, documents, scale);
  y.backward(g);
  return {y.detach(), qkv[0].grad(), qkv[1].grad(), qkv[2].grad()};
}

/// Documents that share prefixes, and positions that go on behind them.
struct SharedPrefixes {
  std::vector<std::int64_t> offsets, prefix_of;
  kernels::Documents documents() const { return {offsets, prefix_of}; }
  RopeAngles angles(std::int64_t head_dim) const {
    std::vector<at::Tensor> positions;
    for (std::size_t d = 0; d < prefix_of.size(); ++d) {
      const auto p = static_cast<std::size_t>(prefix_of[d]);
      const auto first = prefix_of[d] < 0 ? 0 : offsets[p + 1] - offsets[p];
      positions.push_back(at::arange(first, first + offsets[d + 1] - offsets[d], at::kLong));
    }
    return angles_for(at::cat(positions), head_dim);
  }
};

// Two prefixes, one longer than a block of queries; completions of several blocks, of one token and
// of none, not all beside their prefix; documents that stand alone; an empty prefix.
const SharedPrefixes kShared{{0, 150, 300, 301, 301, 307, 320, 327, 330, 340, 340, 343},
                             {-1, 0, 0, 0, -1, 0, 4, 4, -1, -1, 9}};

}  // namespace

TEST_CASE("attention over shared prefixes equals its reference, forward and backward", "[models]") {
  at::manual_seed(0);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const std::int64_t value_dim = GENERATE(16, 8), kv_heads = GENERATE(6, 2);
  CAPTURE(dtype, value_dim, kv_heads);
  const auto length = kShared.offsets.back();
  const std::vector<at::Tensor> qkv{at::randn({length, 6, 16}, dtype),
                                    at::randn({length, kv_heads, 16}, dtype),
                                    at::randn({length, kv_heads, value_dim}, dtype)};
  const auto g = at::randn({length, 6, value_dim}, dtype);
  const auto run = [&](auto* attention) {
    return run_and_differentiate(attention, qkv, kShared.angles(16), kShared.documents(), {}, g);
  };
  const auto fast = run(causal_attention), plain = run(causal_attention_reference);
  // A prefix's keys add up the gradients of 300 rows.
  const double tolerance = dtype == at::kFloat ? 1e-5 : 1e-1;
  for (std::size_t i = 0; i < 4; ++i)
    CHECK(at::allclose(fast[i], plain[i], 10 * tolerance, tolerance));
}

TEST_CASE("a prefix computed once equals a copy of it before every completion", "[models]") {
  at::manual_seed(0);
  const SharedPrefixes shared{{0, 140, 145, 275}, {-1, 0, 0}}, copied{{0, 145, 415}, {-1, -1}};
  const auto length = shared.offsets.back();
  const std::vector<at::Tensor> qkv{at::randn({length, 4, 8}), at::randn({length, 2, 8}),
                                    at::randn({length, 2, 8})};
  auto g = at::randn({length, 4, 8});
  g.narrow(0, 0, 140).zero_();  // the loss is one of completions
  const auto with_copies = [](const at::Tensor& x) {
    return at::cat({x.narrow(0, 0, 145), x.narrow(0, 0, 140), x.narrow(0, 145, 130)});
  };
  const auto once =
      run_and_differentiate(causal_attention, qkv, shared.angles(8), shared.documents(), {}, g);
  std::vector<at::Tensor> copies;
  for (const auto& x : qkv) copies.push_back(with_copies(x));
  const auto twice = run_and_differentiate(causal_attention, copies, copied.angles(8),
                                           copied.documents(), {}, with_copies(g));
  CHECK(at::allclose(with_copies(once[0]), twice[0], 1e-5, 1e-6));
  for (std::size_t i = 1; i < 4; ++i) {
    auto sum = at::cat({twice[i].narrow(0, 0, 145), twice[i].narrow(0, 285, 130)});
    sum.narrow(0, 0, 140) += twice[i].narrow(0, 145, 140);
    CHECK(at::allclose(once[i], sum, 1e-4, 1e-5));
  }
}

TEST_CASE("gradients over shared prefixes are the slopes of the answer", "[models]") {
  at::manual_seed(0);
  const SharedPrefixes shared{{0, 5, 9, 9, 12}, {-1, 0, 0, 0}};
  const std::vector<at::Tensor> qkv{at::randn({12, 4, 8}), at::randn({12, 2, 8}),
                                    at::randn({12, 2, 8})};
  const auto g = at::randn({12, 4, 8});
  const auto angles = shared.angles(8);
  const auto gradients =
      run_and_differentiate(causal_attention, qkv, angles, shared.documents(), {}, g);
  for (std::size_t i = 0; i < 3; ++i) {
    const auto direction = at::randn_like(qkv[i]);
    const auto value = [&](double step) {
      auto moved = qkv;
      moved[i] = moved[i] + step * direction;
      const auto y = causal_attention(moved[0], moved[1], moved[2], angles, shared.documents());
      return (y.to(at::kDouble) * g).sum().item<double>();
    };
    const auto slope = (value(1e-2) - value(-1e-2)) / 2e-2;
    CHECK((gradients[i + 1] * direction).sum().item<double>() ==
          Approx(slope).epsilon(1e-3).margin(1e-3));
  }
}

TEST_CASE("gradients over shared prefixes have the same bits with any number of threads",
          "[models]") {
  at::manual_seed(0);
  const auto length = kShared.offsets.back();
  const std::vector<at::Tensor> qkv{at::randn({length, 4, 16}), at::randn({length, 2, 16}),
                                    at::randn({length, 2, 16})};
  const auto g = at::randn({length, 4, 16});
  const auto with_threads = [&](int threads) {
    const auto before = at::get_num_threads();
    at::set_num_threads(threads);
    const auto found = run_and_differentiate(causal_attention, qkv, kShared.angles(16),
                                             kShared.documents(), {}, g);
    at::set_num_threads(before);
    return found;
  };
  const auto one = with_threads(1), three = with_threads(3);
  for (std::size_t i = 0; i < 4; ++i) CHECK(at::equal(one[i], three[i]));
}

TEST_CASE("prefixes that are not earlier documents standing alone are refused", "[models]") {
  const auto x = at::randn({6, 2, 4});
  const auto attend = [&](const std::vector<std::int64_t>& offsets,
                          const std::vector<std::int64_t>& prefix_of) {
    causal_attention(x, x, x, {}, {offsets, prefix_of});
  };
  using Catch::Contains;
  CHECK_THROWS_WITH(attend({0, 2, 6}, {-1}), Contains("prefix_of names 1 documents of 2"));
  CHECK_THROWS_WITH(attend({0, 2, 6}, {-1, 1}), Contains("prefix_of[1] = 1: expected an earlier"));
  CHECK_THROWS_WITH(attend({0, 2, 6}, {-1, -2}), Contains("prefix_of[1] = -2"));
  CHECK_THROWS_WITH(attend({0, 2, 4, 6}, {-1, 0, 1}), Contains("that document has a prefix"));
  CHECK_THROWS_WITH(attend({0, 4, 2, 6}, {}), Contains("document_offsets must run from 0"));
  CHECK_THROWS_WITH(attend({0, 2}, {}), Contains("document_offsets must run from 0 to T = 6"));
  CHECK_NOTHROW(attend({0, 2, 4, 6}, {-1, 0, 0}));
}

TEST_CASE("prompts are packed once, their completions behind them", "[models]") {
  const std::vector<PromptGroup> groups{{{1, 2, 3}, {{4, 5}, {}, {6}}}, {{7}, {{8, 9}}}};
  const auto batch = pack_with_prefixes(groups, 4);
  const auto values = [](const at::Tensor& x) {
    return std::vector<std::int64_t>(x.const_data_ptr<std::int64_t>(),
                                     x.const_data_ptr<std::int64_t>() + x.numel());
  };
  CHECK(values(batch.ids_T) == std::vector<std::int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0});
  CHECK(values(batch.positions_T) == std::vector<std::int64_t>{0, 1, 2, 3, 4, 3, 0, 1, 2, 0, 1, 2});
  CHECK(batch.document_offsets == std::vector<std::int64_t>{0, 3, 5, 5, 6, 7, 9, 12});
  CHECK(batch.prefix_of == std::vector<std::int64_t>{-1, 0, 0, 0, -1, 4, -1});
  CHECK(pack_with_prefixes(groups).num_tokens() == 9);
  CHECK(pack_with_prefixes({}, 4).num_tokens() == 0);
}

TEST_CASE("attention equals its reference, forward and backward", "[models]") {
  at::manual_seed(0);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const std::int64_t value_dim = GENERATE(8, 5);  // 5: with a given scale, and nothing is rotated
  CAPTURE(dtype, value_dim);
  const std::vector<at::Tensor> qkv{at::randn({9, 4, 8}, dtype), at::randn({9, 2, 8}, dtype),
                                    at::randn({9, 2, value_dim}, dtype)};
  const std::vector<std::int64_t> offsets{0, 1, 4, 4, 9};  // one document is empty
  const bool plain_heads = value_dim == 8;
  const auto scale = plain_heads ? std::optional<double>() : 0.6;
  const auto angles = plain_heads
                          ? angles_for(at::tensor({0, 0, 1, 2, 0, 1, 2, 3, 4}, at::kLong), 8)
                          : RopeAngles();
  const auto g = at::randn({9, 4, value_dim}, dtype);
  const auto run = [&](auto* attention) {
    return run_and_differentiate(attention, qkv, angles, {offsets}, scale, g);
  };
  const auto fast = run(causal_attention), plain = run(causal_attention_reference);
  const double tolerance = dtype == at::kFloat ? 1e-5 : 5e-2;
  for (std::size_t i = 0; i < 4; ++i) CHECK(at::allclose(fast[i], plain[i], tolerance, tolerance));
}

TEST_CASE("attention over several blocks of queries equals its reference", "[models]") {
  at::manual_seed(0);
  const std::int64_t value_dim = GENERATE(16, 8, 24);
  CAPTURE(value_dim);
  const std::vector<std::int64_t> offsets{0, 300, 428, 429, 559};  // 3 blocks, 1, a token, 2
  const auto length = offsets.back();
  const std::vector<at::Tensor> qkv{at::randn({length, 6, 16}), at::randn({length, 2, 16}),
                                    at::randn({length, 2, value_dim})};
  std::vector<at::Tensor> positions;
  for (std::size_t d = 0; d + 1 < offsets.size(); ++d)
    positions.push_back(at::arange(offsets[d + 1] - offsets[d], at::kLong));
  const auto angles = angles_for(at::cat(positions), 16);
  const auto g = at::randn({length, 6, value_dim});
  const auto run = [&](auto* attention) {
    return run_and_differentiate(attention, qkv, angles, {offsets}, {}, g);
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
      causal_attention(q, k, v, angles_for(positions, 8), {std::vector<std::int64_t>{0, length}});
  KvCache cache(8, 4);
  cache.open();
  const auto slot = cache.open();
  std::vector<at::Tensor> parts;
  for (std::int64_t begin = 0; begin < length;) {
    const auto count = begin == 0 ? prompt : 1;
    Batch batch;
    batch.positions_T = positions.narrow(0, begin, count).contiguous();
    batch.document_offsets = {0, count};
    batch.cache = &cache;
    batch.cache_slots = {slot};
    REQUIRE(cache.reserve(slot, begin, begin + count));
    parts.push_back(cached_causal_attention(q.narrow(0, begin, count), k.narrow(0, begin, count),
                                            v.narrow(0, begin, count),
                                            angles_for(batch.positions_T, 8), batch, 0));
    begin += count;
  }
  CHECK(at::allclose(at::cat(parts), whole, 1e-5, 1e-5));
}

TEST_CASE("prompts, later pieces of prompts and single tokens may stand in one step", "[models]") {
  at::manual_seed(0);
  struct Part {
    std::int64_t start, count;
  };
  const std::vector<Part> parts{{6, 1}, {0, 9}, {0, 1}, {5, 4}, {0, 3}};  // of five documents
  const std::int64_t value_dim = GENERATE(8, 5);
  const auto positions = at::arange(10, at::kLong);
  KvCache cache(20, 4);
  std::vector<at::Tensor> q, k, v, position, expected;
  Batch batch;
  batch.cache = &cache;
  batch.document_offsets = {0};
  for (const auto& part : parts) {
    const auto length = part.start + part.count;
    const auto qd = at::randn({length, 4, 8}), kd = at::randn({length, 2, 8}),
               vd = at::randn({length, 2, value_dim});
    const auto slot = cache.open();
    REQUIRE(cache.reserve(slot, 0, length));
    if (part.start > 0) {
      Batch before;
      before.positions_T = positions.narrow(0, 0, part.start);
      before.document_offsets = {0, part.start};
      before.cache = &cache;
      before.cache_slots = {slot};
      const auto first = [&](const at::Tensor& x) { return x.narrow(0, 0, part.start); };
      cached_causal_attention(first(qd), first(kd), first(vd), angles_for(first(positions), 8),
                              before, 0);
    }
    const auto rows = [&](const at::Tensor& x) { return x.narrow(0, part.start, part.count); };
    expected.push_back(
        rows(causal_attention(qd, kd, vd, angles_for(positions.narrow(0, 0, length), 8),
                              {std::vector<std::int64_t>{0, length}})));
    q.push_back(rows(qd));
    k.push_back(rows(kd));
    v.push_back(rows(vd));
    position.push_back(rows(positions));
    batch.document_offsets.push_back(batch.document_offsets.back() + part.count);
    batch.cache_slots.push_back(slot);
  }
  batch.positions_T = at::cat(position);
  const auto y = cached_causal_attention(at::cat(q), at::cat(k), at::cat(v),
                                         angles_for(batch.positions_T, 8), batch, 0);
  CHECK(at::allclose(y, at::cat(expected), 1e-5, 1e-5));
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
