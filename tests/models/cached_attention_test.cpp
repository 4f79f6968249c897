#include "models/kernels/cached_attention.hpp"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <c10/util/Exception.h>

#include <catch2/catch.hpp>
#include <deque>
#include <limits>
#include <span>
#include <vector>

using namespace tailor::models::kernels;

namespace {

struct Setting {
  std::int64_t num_heads, num_key_heads, head_dim;
};
constexpr Setting kSettings[] = {{9, 3, 64}, {4, 4, 128}, {8, 1, 16},
                                 {3, 3, 10}, {14, 2, 80}, {2, 1, 3}};

/// Sequences of random keys and values in blocks that stand in no order.
class Cache {
 public:
  Cache(const Setting& s, at::ScalarType dtype, std::int64_t block_size = 16)
      : block_size_(block_size) {
    for (auto* x : {&blocks.keys_BKPH, &blocks.values_BKPH})
      *x = at::randn({kNumBlocks, s.num_key_heads, block_size, s.head_dim}).to(dtype);
  }

  CachedSequence sequence(std::int64_t begin, std::int64_t count, std::int64_t start) {
    auto& table = tables_.emplace_back();
    for (std::int64_t held = 0; held < start + count; held += block_size_)
      table.push_back((next_ += 7) % kNumBlocks);  // coprime: every block comes once
    REQUIRE(next_ < 7 * kNumBlocks);
    return {begin, count, start, table};
  }

  /// What lies at one position.
  at::Tensor key(const CachedSequence& s, std::int64_t position) const {
    return at_position(blocks.keys_BKPH, s, position);
  }
  at::Tensor value(const CachedSequence& s, std::int64_t position) const {
    return at_position(blocks.values_BKPH, s, position);
  }

  CacheBlocks blocks;

 private:
  static constexpr std::int64_t kNumBlocks = 200;
  at::Tensor at_position(const at::Tensor& x_BKPH, const CachedSequence& s,
                         std::int64_t position) const {
    return x_BKPH[s.blocks[static_cast<std::size_t>(position / block_size_)]].select(
        1, position % block_size_);
  }

  std::int64_t block_size_, next_ = 0;
  std::deque<std::vector<std::int64_t>> tables_;
};

}  // namespace

TEST_CASE("cached_attention: near the float64 reference for every instruction set", "[models]") {
  for (const auto isa : available_isas())
    for (const auto& s : kSettings)
      for (const auto dtype : {at::kFloat, at::kBFloat16}) {
        CAPTURE(static_cast<int>(isa), s.num_heads, s.head_dim, dtype);
        Cache cache(s, dtype);
        const std::vector<CachedSequence> sequences{
            cache.sequence(0, 1, 0), cache.sequence(1, 1, 36), cache.sequence(2, 19, 15),
            cache.sequence(21, 0, 3), cache.sequence(21, 2, 200)};
        const auto q = at::randn({23, s.num_heads, s.head_dim}) * 3;
        const auto y = cached_attention(q, cache.blocks, sequences, 0.3, isa);
        const auto expected = cached_attention_reference(q, cache.blocks, sequences, 0.3);
        CHECK((y - expected).abs().max().item<double>() < 2e-5);
      }
}

TEST_CASE("cached_attention: bfloat16 queries answer bfloat16", "[models]") {
  const Setting s{6, 2, 32};
  Cache cache(s, at::kBFloat16);
  const std::vector<CachedSequence> sequences{cache.sequence(0, 3, 9)};
  const auto q = at::randn({3, 6, 32}).to(at::kBFloat16);
  const auto y = cached_attention(q, cache.blocks, sequences, 0.2);
  CHECK(y.scalar_type() == at::kBFloat16);
  const auto error =
      (y.to(at::kDouble) - cached_attention_reference(q, cache.blocks, sequences, 0.2)).abs().max();
  CHECK(error.item<double>() < 0.01);
}

TEST_CASE("cached_attention: later positions and other sequences are not seen", "[models]") {
  const Setting s{4, 2, 16};
  Cache cache(s, at::kFloat, 4);
  const auto first = cache.sequence(0, 2, 4), other = cache.sequence(2, 1, 7);
  const auto q = at::randn({3, 4, 16});
  const std::vector<CachedSequence> both{first, other}, alone{first};
  const auto y = cached_attention(q, cache.blocks, both, 0.25);
  CHECK(
      at::equal(cached_attention(q.narrow(0, 0, 2), cache.blocks, alone, 0.25), y.narrow(0, 0, 2)));
  const auto nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::int64_t position : {6, 7}) {
    cache.key(first, position).fill_(nan);
    cache.value(first, position).fill_(nan);
  }
  CHECK(at::equal(cached_attention(q, cache.blocks, both, 0.25), y));
  cache.key(first, 5).fill_(nan);  // seen by the second token only
  const auto poisoned = cached_attention(q, cache.blocks, both, 0.25);
  CHECK(at::equal(poisoned[0], y[0]));
  CHECK(poisoned[1].isnan().all().item<bool>());
}

TEST_CASE("cached_attention: the length of blocks and their order do not change a bit",
          "[models]") {
  const Setting s{6, 2, 40};
  const auto q = at::randn({5, 6, 40}), k = at::randn({150, 2, 40}), v = at::randn({150, 2, 40});
  std::vector<at::Tensor> y;
  for (const std::int64_t block_size : {1, 8, 64, 150}) {
    Cache cache(s, at::kFloat, block_size);
    const std::vector<CachedSequence> sequences{cache.sequence(0, 5, 145)};
    auto all = sequences[0];
    all.start = 0;
    all.count = 150;
    append_to_cache(k, v, cache.blocks, std::vector{all});
    y.push_back(cached_attention(q, cache.blocks, sequences, 0.2));
    CHECK(at::equal(y.back(), y.front()));
  }
}

TEST_CASE("cached_attention: the number of threads does not change a bit", "[models]") {
  const Setting s{9, 3, 64};
  Cache cache(s, at::kBFloat16);
  const std::vector<CachedSequence> sequences{cache.sequence(0, 20, 100),
                                              cache.sequence(20, 1, 300)};
  const auto q = at::randn({21, 9, 64});
  const auto threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = cached_attention(q, cache.blocks, sequences, 0.125);
  at::set_num_threads(2);
  CHECK(at::equal(cached_attention(q, cache.blocks, sequences, 0.125), one));
  at::set_num_threads(threads);
}

TEST_CASE("cached_attention: scores far apart neither overflow nor vanish", "[models]") {
  const Setting s{1, 1, 16};
  Cache cache(s, at::kFloat);
  const std::vector<CachedSequence> one{cache.sequence(0, 1, 20)};
  cache.blocks.keys_BKPH.zero_();
  cache.key(one[0], 7).fill_(1.0);
  const auto q = at::full({1, 1, 16}, 1000.0);
  for (const auto isa : available_isas()) {
    CHECK(at::equal(cached_attention(q, cache.blocks, one, 1.0, isa)[0], cache.value(one[0], 7)));
    const auto away = cached_attention(-q, cache.blocks, one, 1.0, isa);
    CHECK(
        (away - cached_attention_reference(-q, cache.blocks, one, 1.0)).abs().max().item<double>() <
        1e-6);
  }
}

TEST_CASE("append_to_cache: rows land at their positions, cast to the blocks' dtype", "[models]") {
  const Setting s{6, 2, 5};
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const auto cache_dtype : {at::kFloat, at::kBFloat16}) {
      Cache cache(s, cache_dtype, 4);
      cache.blocks.keys_BKPH.zero_();
      cache.blocks.values_BKPH.zero_();
      const std::vector<CachedSequence> sequences{cache.sequence(0, 2, 3), cache.sequence(2, 1, 0)};
      const auto qkv = at::randn({3, 6, 5}).to(dtype);  // k and v as views of a fused projection
      const auto k = qkv.narrow(1, 0, 2), v = qkv.narrow(1, 4, 2);
      append_to_cache(k, v, cache.blocks, sequences);
      const auto number_of_rows = [&](const at::Tensor& x) {
        return x.abs().sum({1, 3}).count_nonzero().item<std::int64_t>();
      };
      CHECK(number_of_rows(cache.blocks.keys_BKPH) == 3);
      CHECK(number_of_rows(cache.blocks.values_BKPH) == 3);
      for (const auto& sequence : sequences)
        for (std::int64_t t = 0; t < sequence.count; ++t) {
          const auto row = sequence.begin + t, position = sequence.start + t;
          CHECK(at::equal(cache.key(sequence, position), k[row].to(cache_dtype)));
          CHECK(at::equal(cache.value(sequence, position), v[row].to(cache_dtype)));
        }
    }
}

TEST_CASE("cached_attention: what does not fit is refused", "[models]") {
  const Setting s{4, 2, 8};
  Cache cache(s, at::kFloat, 4);
  const std::vector<CachedSequence> sequences{cache.sequence(0, 2, 4)};
  const auto q = at::randn({2, 4, 8});
  const auto refused = [&](const at::Tensor& x, std::span<const CachedSequence> which) {
    CHECK_THROWS_AS(cached_attention(x, cache.blocks, which, 1), c10::ValueError);
  };
  refused(at::randn({1, 4, 8}), sequences);  // rows
  refused(at::randn({2, 3, 8}), sequences);  // heads
  refused(at::randn({2, 4, 6}), sequences);  // width
  auto wrong = sequences;
  wrong[0].start = 10;  // beyond its blocks
  refused(q, wrong);
  const std::vector<std::int64_t> unknown{0, 200};
  wrong[0] = {0, 2, 4, unknown};
  refused(q, wrong);
  CHECK_THROWS_AS(append_to_cache(q, q, cache.blocks, sequences), c10::ValueError);  // 4 key heads
  cache.blocks.values_BKPH = cache.blocks.values_BKPH.transpose(1, 2);
  refused(q, sequences);
}
