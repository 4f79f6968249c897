#pragma once

#include <functional>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "distributed/thread_group.hpp"

namespace tailor::distributed {

/// What `body(group)` answers on each of `num_ranks` threads, by rank; see run_thread_ranks(). Only
/// the caller may use Catch2's macros, which are not thread-safe.
template <typename Body>
auto on_ranks(int num_ranks, const Body& body) {
  using Result = std::invoke_result_t<const Body&, Group&>;
  std::vector<std::optional<Result>> results(static_cast<std::size_t>(num_ranks));
  run_thread_ranks(num_ranks, [&](Group& group) {
    results[static_cast<std::size_t>(group.rank())] = body(group);
  });
  std::vector<Result> out;
  for (auto& result : results) out.push_back(std::move(*result));
  return out;
}

}  // namespace tailor::distributed
