#pragma once

#include <algorithm>
#include <chrono>
#include <vector>

namespace tailor::trainer {

/// Median duration of a call: after one warm-up, as many runs as fit into about half a second, at
/// least three and at most fifty.
template <class Call>
double median_seconds(const Call& call) {
  using Clock = std::chrono::steady_clock;
  const auto once = [&] {
    const auto start = Clock::now();
    call();
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  once();
  std::vector<double> seconds;
  for (double total = 0.0; seconds.size() < 3 || (total < 0.5 && seconds.size() < 50);) {
    seconds.push_back(once());
    total += seconds.back();
  }
  std::nth_element(seconds.begin(),
                   seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2),
                   seconds.end());
  return seconds[seconds.size() / 2];
}

}  // namespace tailor::trainer
