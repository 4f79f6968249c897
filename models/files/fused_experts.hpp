#pragma once

#include <memory>
#include <string>

#include "models/files/tensor_source.hpp"

namespace tailor::models {

/// Some checkpoints hold all experts of a layer in two tensors, "<block>.experts.gate_up_proj"
/// (E, 2 F, D), gate before up, and "<block>.experts.down_proj" (E, D, F): what transformers 5 has
/// in memory and saves where the published format is not asked for. Here they appear as the
/// published ones, "<block>.experts.3.gate_proj.weight" (F, D) and so on; for model_type "mixtral"
/// the block is "block_sparse_moe" and the projections are w1, w3 and w2. A read takes from the
/// file no more than what it answers. A source without such tensors is given back. Throws FileError
/// for other shapes.
std::shared_ptr<const TensorSource> split_fused_experts(std::shared_ptr<const TensorSource> source,
                                                        const std::string& model_type);

}  // namespace tailor::models
