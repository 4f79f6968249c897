#pragma once

#include <memory>

#include "distributed/group.hpp"
#include "models/families/causal_lm.hpp"
#include "models/layers/region.hpp"

namespace tailor::distributed {

/// Keeps part `index` of `count` of every matrix that its seat says how to cut: attention by heads,
/// feed-forward blocks by their width, embedding and head by the vocabulary (Shoeybi et al. 2019,
/// arXiv:1909.08053). Before loading and before adapters are seated, so that both make no more than
/// their part. Throws configs::ConfigError naming the layer, its heads or width and `count` where
/// they do not divide, and for a family that cannot be cut.
void cut_for_tensor_parallel(models::CausalLM& model, int index, int count);

/// The edges of the blocks of a model that is cut over the ranks of `group`. A block costs, a
/// direction, one all-reduce of (T, D), or a gather and a scatter of the same bytes together.
std::shared_ptr<models::Region> make_tensor_region(std::shared_ptr<Group> group);

}  // namespace tailor::distributed
