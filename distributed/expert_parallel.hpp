#pragma once

#include <cstdint>
#include <memory>

#include "distributed/group.hpp"
#include "models/layers/expert_exchange.hpp"

namespace tailor::distributed {

/// Experts spread over the ranks of `group`: rank r holds experts [r E / size, (r + 1) E / size). A
/// dispatch gathers the counts of all ranks (E numbers each), then exchanges rows, T K of them on
/// average of which (size - 1) / size leave the rank; combine sends the answers back the same way;
/// backward does both once more. Every rank takes part in every exchange, with or without rows, and
/// the ranks need not hold equally many tokens. Within an expert rows are in the order of (source
/// rank, token). `num_experts` is that of the whole layer and a multiple of the group's size.
std::shared_ptr<models::ExpertExchange> make_expert_parallel_exchange(std::shared_ptr<Group> group,
                                                                      std::int64_t num_experts);

}  // namespace tailor::distributed
