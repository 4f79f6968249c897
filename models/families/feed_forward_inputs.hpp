#pragma once

#include <vector>

#include "models/families/causal_lm.hpp"

namespace tailor::models {

/// What the feed-forward of each layer of a dense model reads in one forward of `batch`: (T, D)
/// float32 in order of the layers. The model is as before afterwards. Throws ValueError for a
/// model without a "mlp.gate_proj" in every layer.
std::vector<at::Tensor> feed_forward_inputs(CausalLM& model, const Batch& batch);

}  // namespace tailor::models
