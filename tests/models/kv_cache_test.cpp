#include "models/layers/kv_cache.hpp"

#include <ATen/ops/equal.h>
#include <c10/util/Exception.h>

#include <catch2/catch.hpp>
#include <set>
#include <vector>

using namespace tailor::models;
using Blocks = std::vector<std::int64_t>;

namespace {

Blocks blocks(const KvCache& cache, std::int64_t slot) {
  const auto held = cache.blocks(slot);
  return {held.begin(), held.end()};
}

}  // namespace

TEST_CASE("kv cache: slots take blocks as they grow and give them back", "[models]") {
  KvCache cache(5, 4);
  const auto a = cache.open(), b = cache.open();
  CHECK(a != b);
  CHECK(cache.blocks(a).empty());
  REQUIRE(cache.reserve(a, 0, 4));
  CHECK(cache.blocks(a).size() == 1);
  REQUIRE(cache.reserve(a, 4, 4));
  CHECK(cache.blocks(a).size() == 1);
  REQUIRE(cache.reserve(a, 4, 5));
  REQUIRE(cache.reserve(b, 0, 9));
  CHECK(cache.num_free_blocks() == 0);
  std::set<std::int64_t> all;
  for (const auto slot : {a, b})
    for (const auto block : cache.blocks(slot)) all.insert(block);
  CHECK(all == std::set<std::int64_t>{0, 1, 2, 3, 4});
  const auto before = blocks(cache, a);
  CHECK_FALSE(cache.reserve(a, 5, 9));
  CHECK(blocks(cache, a) == before);
  cache.close(b);
  CHECK(cache.num_free_blocks() == 3);
  CHECK(cache.reserve(a, 5, 9));
  CHECK(cache.open() == b);
  CHECK(cache.blocks(b).empty());
}

TEST_CASE("kv cache: forks share blocks until one is written to", "[models]") {
  KvCache cache(8, 4);
  const auto prompt = cache.open();
  REQUIRE(cache.reserve(prompt, 0, 6));
  const auto& layer = cache.layer(1, 2, 3, at::kFloat);  // the layer before it holds nothing
  const auto last = cache.blocks(prompt)[1];
  layer.keys_BKPH[last].fill_(7);
  layer.values_BKPH[last].fill_(8);

  const auto fork = cache.fork(prompt, 6), whole = cache.fork(prompt, 4);
  CHECK(blocks(cache, fork) == blocks(cache, prompt));
  CHECK(cache.blocks(whole).size() == 1);
  CHECK(cache.num_free_blocks() == 6);

  REQUIRE(cache.reserve(fork, 6, 7));
  CHECK(cache.blocks(fork)[0] == cache.blocks(prompt)[0]);
  const auto own = cache.blocks(fork)[1];
  CHECK(own != last);
  CHECK(at::equal(layer.keys_BKPH[own], layer.keys_BKPH[last]));
  CHECK(at::equal(layer.values_BKPH[own], layer.values_BKPH[last]));
  REQUIRE(cache.reserve(whole, 4, 5));  // begins a block: nothing is copied
  CHECK(cache.num_free_blocks() == 4);

  REQUIRE(cache.reserve(prompt, 6, 7));  // its last block is its own again
  CHECK(cache.blocks(prompt)[1] == last);
  cache.close(prompt);
  CHECK(cache.num_free_blocks() == 5);  // the first block is still shared
  cache.close(fork);
  cache.close(whole);
  CHECK(cache.num_free_blocks() == 8);
}

TEST_CASE("kv cache: a copy needs a free block", "[models]") {
  KvCache cache(2, 4);
  const auto prompt = cache.open();
  REQUIRE(cache.reserve(prompt, 0, 6));
  const auto fork = cache.fork(prompt, 6);
  CHECK_FALSE(cache.reserve(fork, 6, 7));
  CHECK(blocks(cache, fork) == blocks(cache, prompt));
  cache.close(prompt);
  CHECK(cache.reserve(fork, 6, 7));
}

TEST_CASE("kv cache: what a slot does not hold cannot be shared", "[models]") {
  KvCache cache(2, 4);
  const auto slot = cache.open();
  REQUIRE(cache.reserve(slot, 0, 3));
  CHECK_THROWS_AS(cache.fork(slot, 5), c10::ValueError);
  CHECK_THROWS_AS(KvCache(2, 0), c10::ValueError);
}
