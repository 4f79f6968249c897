#pragma once

#include <stdexcept>

namespace tailor::trainer {

/// Numbers went bad: NaN, divergence, an adapter that does not learn. The text names the step and
/// the quantity. Nothing of such a step has reached a checkpoint.
class NumericError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace tailor::trainer
