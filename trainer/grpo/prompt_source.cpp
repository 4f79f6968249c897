#include "trainer/grpo/prompt_source.hpp"

#include <numeric>

#include "configs/reader.hpp"

namespace tailor::trainer {

PromptSource::PromptSource(std::int64_t num_rows, bool shuffle, std::uint64_t seed)
    : num_rows_(num_rows), shuffle_(shuffle), seed_(seed) {
  lay_out();
}

void PromptSource::lay_out() {
  if (laid_out_epoch_ == position_.epoch) return;
  if (shuffle_) {
    order_ = shuffled(num_rows_, seed_, position_.epoch);
  } else {
    order_.resize(static_cast<std::size_t>(num_rows_));
    std::iota(order_.begin(), order_.end(), std::int64_t{0});
  }
  laid_out_epoch_ = position_.epoch;
}

std::int64_t PromptSource::next() {
  lay_out();
  const auto row = order_[static_cast<std::size_t>(position_.row)];
  if (++position_.row == num_rows_) position_ = {position_.epoch + 1, 0};
  return row;
}

void PromptSource::seek(DataPosition position) {
  if (position.epoch < 0 || position.row < 0 || position.row >= num_rows_)
    throw configs::ConfigError("data position: row " + std::to_string(position.row) + " of epoch " +
                               std::to_string(position.epoch) +
                               " was asked for, but an epoch has " + std::to_string(num_rows_) +
                               " rows: the data has changed since");
  position_ = position;
  lay_out();
}

double PromptSource::epochs(std::int64_t num_ahead) const {
  const auto taken = position_.epoch * num_rows_ + position_.row - num_ahead;
  return static_cast<double>(taken / num_rows_) +
         static_cast<double>(taken % num_rows_) / static_cast<double>(num_rows_);
}

}  // namespace tailor::trainer
