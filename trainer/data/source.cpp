#include "trainer/data/source.hpp"

#include <numeric>
#include <stdexcept>
#include <string>

namespace tailor::trainer {

RowSource::RowSource(const Dataset& dataset, const DataConfig& config, std::uint64_t seed)
    : dataset_(dataset), config_(config), seed_(seed) {
  if (dataset.examples.empty()) throw std::invalid_argument("a source of rows needs examples");
  lay_out();
}

void RowSource::lay_out() {
  if (laid_out_epoch_ == position_.epoch) return;
  const auto n = static_cast<std::int64_t>(dataset_.examples.size());
  std::vector<std::int64_t> order;
  if (config_.shuffle) {
    order = shuffled(n, seed_, position_.epoch);
  } else {
    order.resize(dataset_.examples.size());
    std::iota(order.begin(), order.end(), std::int64_t{0});
  }
  rows_.clear();
  if (config_.packing) {
    std::vector<std::int64_t> lengths;
    lengths.reserve(dataset_.examples.size());
    for (const auto& example : dataset_.examples)
      lengths.push_back(static_cast<std::int64_t>(example.ids.size()));
    rows_ = pack_best_fit(lengths, order, config_.max_length);
  } else {
    for (const auto document : order) rows_.push_back({document});
  }
  laid_out_epoch_ = position_.epoch;
}

PackedRow RowSource::next() {
  lay_out();
  auto row = rows_[static_cast<std::size_t>(position_.row)];
  if (++position_.row == static_cast<std::int64_t>(rows_.size()))
    position_ = {position_.epoch + 1, 0};
  return row;
}

void RowSource::seek(DataPosition position) {
  if (position.epoch < 0 || position.row < 0)
    throw configs::ConfigError("data position: epoch " + std::to_string(position.epoch) + ", row " +
                               std::to_string(position.row) + " is none");
  const auto before = position_;
  position_ = position;
  lay_out();
  if (const auto rows = static_cast<std::int64_t>(rows_.size()); position.row >= rows) {
    position_ = before;
    throw configs::ConfigError("data position: row " + std::to_string(position.row) + " of epoch " +
                               std::to_string(position.epoch) +
                               " was asked for, but the epoch has " + std::to_string(rows) +
                               " rows: the data or its settings have changed since");
  }
}

std::int64_t RowSource::rows_in_epoch() {
  lay_out();
  return static_cast<std::int64_t>(rows_.size());
}

double RowSource::epochs() const {
  const auto done = static_cast<double>(position_.epoch);
  if (position_.row == 0) return done;  // rows_ may still be those of the epoch before
  return done + static_cast<double>(position_.row) / static_cast<double>(rows_.size());
}

}  // namespace tailor::trainer
