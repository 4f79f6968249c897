#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <stdexcept>

#include "trainer/data/source.hpp"

using namespace tailor::trainer;

namespace {

std::vector<std::int64_t> in_order(std::size_t n) {
  std::vector<std::int64_t> order(n);
  std::iota(order.begin(), order.end(), std::int64_t{0});
  return order;
}

std::int64_t total(const PackedRow& row, const std::vector<std::int64_t>& lengths) {
  std::int64_t sum = 0;
  for (const auto document : row) sum += lengths[static_cast<std::size_t>(document)];
  return sum;
}

}  // namespace

TEST_CASE("each document goes into the fullest row that takes it", "[data]") {
  // 7 opens a row, 6 another, 4 fills the second (10), 3 fills the first (10), 2 opens the third.
  const std::vector<std::int64_t> lengths{3, 7, 2, 6, 4};
  const auto rows = pack_best_fit(lengths, in_order(5), 10);
  CHECK(rows == std::vector<PackedRow>{{1, 0}, {2}, {3, 4}});
  // Rows follow the order of their longest documents.
  CHECK(pack_best_fit(lengths, {3, 2, 1, 0, 4}, 10) == std::vector<PackedRow>{{3, 4}, {2}, {1, 0}});
}

TEST_CASE("packing keeps every document once and no row is over length", "[data]") {
  std::mt19937 generator(1);
  for (const std::size_t n : {1U, 2U, 17U, 500U}) {
    std::vector<std::int64_t> lengths(n);
    for (auto& length : lengths) length = 1 + static_cast<std::int64_t>(generator() % 64);
    auto order = in_order(n);
    std::shuffle(order.begin(), order.end(), generator);
    const auto rows = pack_best_fit(lengths, order, 64);
    std::vector<std::int64_t> seen;
    for (const auto& row : rows) {
      CHECK(total(row, lengths) <= 64);
      seen.insert(seen.end(), row.begin(), row.end());
    }
    std::sort(seen.begin(), seen.end());
    CHECK(seen == in_order(n));
    // Best fit leaves at most one row half empty.
    CHECK(std::count_if(rows.begin(), rows.end(),
                        [&](const auto& row) { return total(row, lengths) <= 32; }) <= 1);
  }
}

TEST_CASE("a document longer than a row is refused", "[data]") {
  CHECK_THROWS_AS(pack_best_fit({5, 11}, {0, 1}, 10), std::invalid_argument);
  CHECK(pack_best_fit({10}, {0}, 10) == std::vector<PackedRow>{{0}});
  CHECK(pack_best_fit({}, {}, 10).empty());
}

// n squared steps in place of n log n would run into ctest's limit.
TEST_CASE("many documents are packed in a moment", "[data]") {
  std::mt19937 generator(2);
  std::vector<std::int64_t> lengths(200'000);
  for (auto& length : lengths) length = 1 + static_cast<std::int64_t>(generator() % 1024);
  const auto rows = pack_best_fit(lengths, in_order(lengths.size()), 1024);
  const auto tokens = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
  CHECK(static_cast<double>(tokens) > 0.98 * 1024.0 * static_cast<double>(rows.size()));
}

TEST_CASE("a shuffle is a permutation that seed and epoch decide", "[data]") {
  auto order = shuffled(1000, 42, 3);
  CHECK(order == shuffled(1000, 42, 3));
  CHECK(order != shuffled(1000, 42, 4));
  CHECK(order != shuffled(1000, 43, 3));
  CHECK(order != in_order(1000));
  std::sort(order.begin(), order.end());
  CHECK(order == in_order(1000));
  CHECK(shuffled(0, 1, 0).empty());
  CHECK(shuffled(1, 1, 0) == std::vector<std::int64_t>{0});
}

TEST_CASE("every order of four is as likely as any other", "[data]") {
  std::map<std::vector<std::int64_t>, int> counts;
  const int draws = 24'000;
  for (int epoch = 0; epoch < draws; ++epoch) ++counts[shuffled(4, 7, epoch)];
  REQUIRE(counts.size() == 24);
  double chi_squared = 0.0;
  for (const auto& [order, count] : counts) chi_squared += std::pow(count - 1000.0, 2) / 1000.0;
  CHECK(chi_squared < 49.7);  // the 0.999 quantile for 23 degrees of freedom
}
