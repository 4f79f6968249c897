#include "trainer/data/source.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <stdexcept>

using namespace tailor::trainer;

namespace {

Dataset dataset_of(std::size_t n) {
  Dataset dataset;
  for (std::size_t i = 0; i < n; ++i)
    dataset.examples.push_back({std::vector<std::int64_t>(1 + i * 7 % 13, 1),
                                std::vector<std::int64_t>(1 + i * 7 % 13, 1)});
  return dataset;
}

DataConfig config_of(bool packing, bool shuffle) {
  DataConfig config;
  config.max_length = 16;
  config.packing = packing;
  config.shuffle = shuffle;
  return config;
}

}  // namespace

TEST_CASE("a source goes on after seek as if it had never stopped", "[data]") {
  const auto n = GENERATE(1U, 2U, 23U);
  const auto packing = GENERATE(false, true);
  const auto shuffle = GENERATE(false, true);
  CAPTURE(n, packing, shuffle);
  const auto dataset = dataset_of(n);
  const auto config = config_of(packing, shuffle);
  RowSource whole(dataset, config, 5);
  std::vector<PackedRow> rows;
  std::vector<DataPosition> positions;
  std::vector<double> epochs;
  for (int i = 0; i < 80; ++i) {
    positions.push_back(whole.position());
    epochs.push_back(whole.epochs());
    rows.push_back(whole.next());
  }
  RowSource reused(dataset, config, 5);
  for (std::size_t at : {0U, 1U, 22U, 23U, 24U, 57U, 3U}) {
    CAPTURE(at);
    RowSource fresh(dataset, config, 5);
    for (auto* source : {&fresh, &reused}) {
      source->seek(positions[at]);
      CHECK(source->epochs() == epochs[at]);
      bool equal = true;
      for (auto i = at; i < rows.size(); ++i) equal = source->next() == rows[i] && equal;
      CHECK(equal);
    }
  }
}

TEST_CASE("an epoch hands out every document once, and epochs differ by their order", "[data]") {
  const auto dataset = dataset_of(23);
  RowSource source(dataset, config_of(true, true), 5);
  std::vector<std::vector<std::int64_t>> orders;
  for (int epoch = 0; epoch < 3; ++epoch) {
    CHECK(source.position().epoch == epoch);
    CHECK(source.position().row == 0);
    CHECK(source.epochs() == static_cast<double>(epoch));
    std::vector<std::int64_t> order;
    for (auto rows = source.rows_in_epoch(); rows > 0; --rows) {
      const auto row = source.next();
      order.insert(order.end(), row.begin(), row.end());
    }
    orders.push_back(order);
    std::sort(order.begin(), order.end());
    REQUIRE(order.size() == 23);
    CHECK(std::adjacent_find(order.begin(), order.end()) == order.end());
  }
  CHECK(orders[0] != orders[1]);
  CHECK(orders[1] != orders[2]);
}

TEST_CASE("without shuffling and packing rows come as the file has them", "[data]") {
  const auto dataset = dataset_of(3);
  RowSource source(dataset, config_of(false, false), 5);
  CHECK(source.rows_in_epoch() == 3);
  for (std::int64_t i = 0; i < 7; ++i) CHECK(source.next() == PackedRow{i % 3});
  CHECK(source.epochs() == Approx(7.0 / 3.0));
}

TEST_CASE("a position that the data does not have is refused", "[data]") {
  const auto dataset = dataset_of(3);
  RowSource source(dataset, config_of(false, true), 5);
  CHECK_THROWS_WITH(source.seek({1, 3}),
                    Catch::Contains("row 3 of epoch 1") && Catch::Contains("has 3 rows"));
  CHECK_THROWS_AS(source.seek({-1, 0}), tailor::configs::ConfigError);
  CHECK(source.position().epoch == 0);
  RowSource other(dataset, config_of(false, true), 5);
  CHECK(source.next() == other.next());
  CHECK_THROWS_AS(RowSource(Dataset{}, config_of(true, true), 5), std::invalid_argument);
}
