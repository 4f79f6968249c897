#pragma once

#include <chrono>
#include <functional>

#include "distributed/group.hpp"

namespace tailor::distributed {

inline const GroupOptions kThreadOptions{.timeout = std::chrono::seconds(60), .check_calls = true};

/// Runs `body` on `num_ranks` threads of this process, each a rank of one group, to test what is
/// meant for processes. A rank computes with one thread. Returns when all have ended.
///
/// A rank that throws releases the others: what they wait for throws CommError that names it and
/// its reason; so does what waits for a rank that has returned. The exception that came first is
/// thrown again here.
void run_thread_ranks(int num_ranks, const std::function<void(Group&)>& body,
                      const GroupOptions& options = kThreadOptions);

}  // namespace tailor::distributed
