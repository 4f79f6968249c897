#pragma once

#include <cstdint>
#include <vector>

#include "trainer/data/dataset.hpp"

namespace tailor::trainer {

/// Documents that go through forward together as one row: with packing several, best-fit into
/// max_length tokens, else one. Indices into Dataset::examples.
using PackedRow = std::vector<std::int64_t>;

/// Where a Source stands: the next row to hand out. Everything a restart needs.
struct DataPosition {
  std::int64_t epoch = 0, row = 0;
};

/// Endless rows, epoch after epoch. The order of an epoch is a function of (seed, epoch) alone.
class RowSource {
 public:
  /// `dataset` outlives the source, holds at least one example and none longer than max_length.
  RowSource(const Dataset& dataset, const DataConfig& config, std::uint64_t seed);

  PackedRow next();
  DataPosition position() const { return position_; }  // row is below rows_in_epoch()
  /// Goes on as the source did that stood there. Throws ConfigError for a place that the data does
  /// not have: it has changed.
  void seek(DataPosition position);
  std::int64_t rows_in_epoch();  // of the current epoch
  double epochs() const;         // epochs completed and the share of the current one, for `epoch`

 private:
  void lay_out();  // rows_ of the current epoch

  const Dataset& dataset_;
  DataConfig config_;
  std::uint64_t seed_;
  DataPosition position_;
  std::int64_t laid_out_epoch_ = -1;
  std::vector<PackedRow> rows_;
};

/// Best-fit decreasing (Johnson 1973): documents from the longest to the shortest, each into the
/// fullest row that still takes it. No document is longer than max_length (std::invalid_argument).
/// Rows follow `order` by their longest document, the one that opened them: after a shuffle any row
/// is as likely to come first, however many documents it holds.
std::vector<PackedRow> pack_best_fit(const std::vector<std::int64_t>& lengths,
                                     const std::vector<std::int64_t>& order,
                                     std::int64_t max_length);

/// A permutation of 0 ... n - 1 from a counter-based generator: (seed, epoch) decides.
std::vector<std::int64_t> shuffled(std::int64_t n, std::uint64_t seed, std::int64_t epoch);

}  // namespace tailor::trainer
