#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "distributed/group.hpp"

namespace tailor::distributed {

/// Tells a rank that has stopped from one that is slow. Every rank sends a sign of life to the next
/// one, from a thread of its own and beside MPI (UDP), so that the time limit of calls can be as
/// long as honest work takes and a stopped process is still found within seconds. Finds processes
/// and machines that stand still, not threads that wait for each other.
///
///   const auto watch = std::make_shared<PeerWatch>(10s);
///   const auto world = make_mpi_group({.trouble = [watch] { return watch->trouble(); }});
///   watch->start(*world);
///
/// Where signs never arrive, as behind a firewall, nothing is concluded.
class PeerWatch {
 public:
  explicit PeerWatch(std::chrono::milliseconds limit);
  ~PeerWatch();  // says good-bye; waits for nobody
  PeerWatch(const PeerWatch&) = delete;
  PeerWatch& operator=(const PeerWatch&) = delete;

  void start(Group& host);  // collective, once

  /// "rank 2 has given no sign of life for 10 s"; empty: all is well, as far as known.
  std::string trouble() const;

 private:
  struct Link;
  void watch();

  std::chrono::milliseconds limit_;
  std::unique_ptr<Link> link_;
  std::thread thread_;
  std::atomic<bool> is_silent_ = false;
};

}  // namespace tailor::distributed
