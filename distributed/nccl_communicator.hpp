#pragma once

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <chrono>
#include <functional>
#include <string>

#include "distributed/group.hpp"

namespace tailor::distributed {

/// A communicator that does not block, with a stream of its own. Every wait for it has a limit.
class NcclCommunicator {
 public:
  /// Of the ranks of `host`, by which they meet; collective.
  NcclCommunicator(Group& host, int device, std::chrono::milliseconds timeout);
  ~NcclCommunicator();
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  /// Enqueues what `calls` does, as one NCCL group, behind `current`; answers the event that ends
  /// it, which the caller destroys.
  using Calls = std::function<ncclResult_t(ncclComm_t, cudaStream_t)>;
  cudaEvent_t enqueue(const std::string& place, cudaStream_t current, const Calls& calls);
  bool is_done(const std::string& place, cudaEvent_t event);
  void wait(const std::string& place, cudaEvent_t event);

 private:
  void check_usable(const std::string& place) const;
  void check(ncclResult_t result, const std::string& place);
  void settle(const std::string& place);  // until what was begun has been taken over
  [[noreturn]] void fail(const std::string& text);
  bool expired(std::chrono::steady_clock::time_point begin) const;

  ncclComm_t comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  int device_;
  std::chrono::milliseconds timeout_;
};

void check_cuda(cudaError_t result, const std::string& place);

}  // namespace tailor::distributed
