#include "distributed/nccl_communicator.hpp"

#include <ATen/ops/empty.h>
#include <c10/util/StringUtil.h>

#include <cstring>
#include <thread>

namespace tailor::distributed {
namespace {

using Clock = std::chrono::steady_clock;

}  // namespace

void check_cuda(cudaError_t result, const std::string& place) {
  if (result != cudaSuccess) throw CommError(place + ": " + cudaGetErrorString(result));
}

NcclCommunicator::NcclCommunicator(Group& host, int device, std::chrono::milliseconds timeout)
    : device_(device), timeout_(timeout) {
  const std::string place = c10::str("NCCL on GPU ", device, " for group ", host.name(), ", rank ",
                                     host.rank(), " of ", host.size());
  check_cuda(cudaSetDevice(device), place);
  check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), place);
  ncclUniqueId id{};
  if (host.rank() == 0) check(ncclGetUniqueId(&id), place);
  auto bytes = at::empty({static_cast<std::int64_t>(sizeof id)}, at::kByte);
  std::memcpy(bytes.mutable_data_ptr(), &id, sizeof id);
  host.broadcast(bytes, 0);
  std::memcpy(&id, bytes.const_data_ptr(), sizeof id);

  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  check(ncclCommInitRankConfig(&comm_, host.size(), id, host.rank(), &config), place);
  settle(place);
}

NcclCommunicator::~NcclCommunicator() {
  if (comm_ != nullptr) ncclCommDestroy(comm_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

cudaEvent_t NcclCommunicator::enqueue(const std::string& place, cudaStream_t current,
                                      const Calls& calls) {
  check_usable(place);
  check_cuda(cudaSetDevice(device_), place);
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), place);
  check_cuda(cudaEventRecord(event, current), place);
  check_cuda(cudaStreamWaitEvent(stream_, event, 0), place);
  check(ncclGroupStart(), place);
  check(calls(comm_, stream_), place);
  check(ncclGroupEnd(), place);
  settle(place);
  check_cuda(cudaEventRecord(event, stream_), place);
  return event;
}

bool NcclCommunicator::is_done(const std::string& place, cudaEvent_t event) {
  const auto state = cudaEventQuery(event);
  if (state == cudaSuccess) return true;
  if (state != cudaErrorNotReady) check_cuda(state, place);
  check_usable(place);
  ncclResult_t error = ncclSuccess;
  check(ncclCommGetAsyncError(comm_, &error), place);
  check(error, place);
  return false;
}

void NcclCommunicator::wait(const std::string& place, cudaEvent_t event) {
  for (const auto begin = Clock::now(); !is_done(place, event); std::this_thread::yield())
    if (expired(begin)) fail(place + ": no answer within the time limit");
}

void NcclCommunicator::settle(const std::string& place) {
  ncclResult_t state = ncclInProgress;
  for (const auto begin = Clock::now(); state == ncclInProgress; std::this_thread::yield()) {
    const auto result = ncclCommGetAsyncError(comm_, &state);
    if (result != ncclInProgress) check(result, place);
    if (expired(begin)) fail(place + ": no answer within the time limit");
  }
  check(state, place);
}

void NcclCommunicator::check_usable(const std::string& place) const {
  if (comm_ == nullptr) throw CommError(place + ": an earlier call of the group has failed");
}

void NcclCommunicator::check(ncclResult_t result, const std::string& place) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  const std::string detail = comm_ == nullptr ? "" : ncclGetLastError(comm_);
  fail(place + ": " + ncclGetErrorString(result) + (detail.empty() ? "" : ", " + detail));
}

void NcclCommunicator::fail(const std::string& text) {
  if (comm_ != nullptr) ncclCommAbort(comm_);  // kernels that wait for a peer end
  comm_ = nullptr;
  throw CommError(text);
}

bool NcclCommunicator::expired(Clock::time_point begin) const {
  return Clock::now() - begin > timeout_;
}

}  // namespace tailor::distributed
