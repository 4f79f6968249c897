#pragma once

#include <cstdint>

namespace tailor::models {

/// Which part of a matrix W (out, in) a rank holds: all of it, or part `index` of `count` equal
/// parts of its rows (Out) or columns (In).
struct Sharding {
  enum class Dim { None, Out, In } dim = Dim::None;
  std::int64_t index = 0, count = 1;

  bool operator==(const Sharding&) const = default;
};

/// How a layer is cut where ranks compute its block together: along `dim`, in multiples of `unit`
/// rows or columns (a head), so that the parts' answers are the block's, or add up to it.
struct Cut {
  Sharding::Dim dim = Sharding::Dim::None;
  std::int64_t unit = 1;
};

/// The part of a checkpoint's tensor that a rank holds: `length` of dimension `dim` from `begin`.
struct Slice {
  std::int64_t dim = 0, begin = 0, length = 0;
};

}  // namespace tailor::models
