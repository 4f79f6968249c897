#pragma once

#include <cstdint>

#include "distributed/mesh.hpp"

namespace tailor::trainer {

/// Small questions that ranks answer together. Collective over `group`.
bool any_rank(bool flag, distributed::Group& group);
std::int64_t most_of_ranks(std::int64_t number, distributed::Group& group);

/// The ranks that need each other in every forward, for the exchange of experts' rows or for parts
/// of the divided base: one that has no more to compute joins in with nothing. Null: there are
/// none.
distributed::Group* lockstep_group(const distributed::Mesh& mesh);

}  // namespace tailor::trainer
