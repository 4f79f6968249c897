#include "models/kernels/cached_attention.hpp"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <catch2/catch.hpp>
#include <limits>
#include <vector>

using namespace tailor::models::kernels;

namespace {

struct Setting {
  std::int64_t num_heads, num_key_heads, head_dim;
};
constexpr Setting kSettings[] = {{9, 3, 64}, {4, 4, 128}, {8, 1, 16},
                                 {3, 3, 10}, {14, 2, 80}, {2, 1, 3}};

/// Slots of random keys and values in the memory order (key head, position, width).
CachedSequence sequence(std::int64_t begin, std::int64_t count, std::int64_t start,
                        const Setting& s, at::ScalarType dtype) {
  const auto slot = [&] {
    return at::randn({s.num_key_heads, start + count + 5, s.head_dim}).to(dtype).transpose(0, 1);
  };
  return {begin, count, start, slot(), slot()};
}

}  // namespace

TEST_CASE("cached_attention: near the float64 reference for every instruction set", "[models]") {
  for (const auto isa : available_isas())
    for (const auto& s : kSettings)
      for (const auto dtype : {at::kFloat, at::kBFloat16}) {
        CAPTURE(static_cast<int>(isa), s.num_heads, s.head_dim, dtype);
        const std::vector<CachedSequence> sequences{
            sequence(0, 1, 0, s, dtype), sequence(1, 1, 36, s, dtype),
            sequence(2, 19, 15, s, dtype), sequence(21, 0, 3, s, dtype),
            sequence(21, 2, 200, s, dtype)};
        const auto q = at::randn({23, s.num_heads, s.head_dim}) * 3;
        const auto y = cached_attention(q, sequences, 0.3, isa);
        const auto expected = cached_attention_reference(q, sequences, 0.3);
        CHECK((y - expected).abs().max().item<double>() < 2e-5);
      }
}

TEST_CASE("cached_attention: bfloat16 queries answer bfloat16", "[models]") {
  const Setting s{6, 2, 32};
  const std::vector<CachedSequence> sequences{sequence(0, 3, 9, s, at::kBFloat16)};
  const auto q = at::randn({3, 6, 32}).to(at::kBFloat16);
  const auto y = cached_attention(q, sequences, 0.2);
  CHECK(y.scalar_type() == at::kBFloat16);
  const auto error =
      (y.to(at::kDouble) - cached_attention_reference(q, sequences, 0.2)).abs().max();
  CHECK(error.item<double>() < 0.01);
}

TEST_CASE("cached_attention: later positions and other sequences are not seen", "[models]") {
  const Setting s{4, 2, 16};
  auto first = sequence(0, 2, 4, s, at::kFloat);
  const auto other = sequence(2, 1, 7, s, at::kFloat);
  const auto q = at::randn({3, 4, 16});
  const std::vector<CachedSequence> both{first, other}, alone{first};
  const auto y = cached_attention(q, both, 0.25);
  CHECK(at::equal(cached_attention(q.narrow(0, 0, 2), alone, 0.25), y.narrow(0, 0, 2)));
  const auto nan = std::numeric_limits<float>::quiet_NaN();
  first.keys_CKH.narrow(0, 6, 5).fill_(nan);
  first.values_CKH.narrow(0, 6, 5).fill_(nan);
  CHECK(at::equal(cached_attention(q, both, 0.25), y));
  first.keys_CKH[5].fill_(nan);  // seen by the second token only
  const auto poisoned = cached_attention(q, both, 0.25);
  CHECK(at::equal(poisoned[0], y[0]));
  CHECK(poisoned[1].isnan().all().item<bool>());
}

TEST_CASE("cached_attention: the number of threads does not change a bit", "[models]") {
  const Setting s{9, 3, 64};
  const std::vector<CachedSequence> sequences{sequence(0, 20, 100, s, at::kBFloat16),
                                              sequence(20, 1, 300, s, at::kBFloat16)};
  const auto q = at::randn({21, 9, 64});
  const auto threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = cached_attention(q, sequences, 0.125);
  at::set_num_threads(2);
  CHECK(at::equal(cached_attention(q, sequences, 0.125), one));
  at::set_num_threads(threads);
}

TEST_CASE("cached_attention: scores far apart neither overflow nor vanish", "[models]") {
  const Setting s{1, 1, 16};
  auto one = sequence(0, 1, 20, s, at::kFloat);
  one.keys_CKH.zero_();
  one.keys_CKH[7].fill_(1.0);
  const auto q = at::full({1, 1, 16}, 1000.0);
  const std::vector<CachedSequence> sequences{one};
  for (const auto isa : available_isas()) {
    CHECK(at::equal(cached_attention(q, sequences, 1.0, isa)[0][0], one.values_CKH[7][0]));
    const auto away = cached_attention(-q, sequences, 1.0, isa);
    CHECK((away - cached_attention_reference(-q, sequences, 1.0)).abs().max().item<double>() <
          1e-6);
  }
}

TEST_CASE("append_to_cache: rows land at their positions, cast to the slot's dtype", "[models]") {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const auto slot_dtype : {at::kFloat, at::kBFloat16}) {
      std::vector<CachedSequence> sequences;
      for (const auto& [begin, count, start] : {std::array<std::int64_t, 3>{0, 2, 3}, {2, 1, 0}})
        sequences.push_back({begin, count, start, at::zeros({6, 2, 5}, slot_dtype),
                             at::zeros({2, 6, 5}, slot_dtype).transpose(0, 1)});
      const auto qkv = at::randn({3, 6, 5}).to(dtype);  // k and v as views of a fused projection
      const auto k = qkv.narrow(1, 0, 2), v = qkv.narrow(1, 4, 2);
      append_to_cache(k, v, sequences);
      CHECK(at::equal(sequences[0].keys_CKH.narrow(0, 3, 2), k.narrow(0, 0, 2).to(slot_dtype)));
      CHECK(at::equal(sequences[0].values_CKH.narrow(0, 3, 2), v.narrow(0, 0, 2).to(slot_dtype)));
      CHECK(at::equal(sequences[1].values_CKH[0], v[2].to(slot_dtype)));
      CHECK(sequences[0].keys_CKH.narrow(0, 0, 3).abs().sum().item<double>() == 0);
      CHECK(sequences[1].keys_CKH.narrow(0, 1, 5).abs().sum().item<double>() == 0);
    }
}

TEST_CASE("cached_attention: what does not fit is refused", "[models]") {
  const Setting s{4, 2, 8};
  const std::vector<CachedSequence> sequences{sequence(0, 2, 4, s, at::kFloat)};
  const auto q = at::randn({2, 4, 8});
  CHECK_THROWS_AS(cached_attention(at::randn({1, 4, 8}), sequences, 1), c10::ValueError);  // rows
  CHECK_THROWS_AS(cached_attention(at::randn({2, 3, 8}), sequences, 1), c10::ValueError);  // heads
  CHECK_THROWS_AS(cached_attention(at::randn({2, 4, 6}), sequences, 1), c10::ValueError);  // width
  auto late = sequences;
  late[0].start = 10;  // beyond the slot
  CHECK_THROWS_AS(cached_attention(q, late, 1), c10::ValueError);
  CHECK_THROWS_AS(append_to_cache(q, q, sequences), c10::ValueError);  // 4 key heads
}
