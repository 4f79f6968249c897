#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "models/batch.hpp"
#include "models/layers/route.hpp"

namespace tailor::models {

/// How many of a document's T tokens one expert computes at most: ceil(T K / E factor), or T.
std::int64_t expert_capacity(std::int64_t num_tokens, const RouterConfig& config, double factor);

/// The ids (T, K) of `routes` with -1 for the pairs that are above an expert's capacity. Of equal
/// weights the earlier token is kept. Weights stay as they are: those of a token that lost an
/// expert are not scaled up.
at::Tensor within_capacity(const Routes& routes, const RouterConfig& config,
                           const ExpertCapacity& capacity,
                           std::span<const std::int64_t> document_offsets);

}  // namespace tailor::models
