#pragma once

#include "models/batch.hpp"
#include "models/layers/rope.hpp"

namespace tailor::models {

/// What the blocks of a decoder layer need beside their input: the same for all layers of one
/// forward.
struct LayerContext {
  const Batch& batch;
  RopeAngles angles;
  bool scattered = false;  // between blocks this rank holds its share of the tokens: see Region
};

}  // namespace tailor::models
