#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>

namespace tailor::distributed {

/// A peer, a wire or a call failed: the collective with its number, the group, the rank. The group
/// is of no further use.
class CommError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Reduce { Sum, Max };

struct GroupOptions {
  /// A wait that lasts longer throws CommError. It must exceed the longest time by which one rank
  /// may come to a call later than another.
  std::chrono::milliseconds timeout = std::chrono::minutes(10);
  /// Before every collective the ranks compare what they are about to call; differences throw on
  /// all of them instead of giving wrong numbers. Costs a round trip a call.
  bool check_calls = false;
  std::int64_t max_message_bytes = std::int64_t{1} << 30;  // MPI counts are int; more is cut
  /// Asked while a call waits: what is wrong with the job, so that waiting has no sense; empty:
  /// nothing. See PeerWatch.
  std::function<std::string()> trouble = nullptr;
};

/// A call under way. Until wait() has returned the caller neither writes to nor reads from the
/// tensors the call was given, and keeps the group. Dropping one that is not done communicates
/// nothing: it is for unwinding only, since the peers still wait.
class [[nodiscard]] Pending {
 public:
  /// What a backend does for a call. Neither is called again once the work is done.
  class Work {
   public:
    virtual ~Work() = default;
    virtual bool advance() = 0;  // does what can be done at once; true: done
    virtual void wait() = 0;     // until done or out of time
  };

  Pending() = default;  // nothing is under way
  explicit Pending(std::unique_ptr<Work> work) : work_(std::move(work)) {}

  /// Moves the call on without blocking; true: done. MPI moves much data only inside calls: who
  /// computes meanwhile asks now and then.
  bool ready();
  void wait();

 private:
  std::unique_ptr<Work> work_;
};

/// Ranks that communicate.
///
/// All calls but send and recv are collective: all ranks make them, in the same order, with the
/// same dtype and, where nothing else is said, the same shape. Messages of one rank to another are
/// received in the order they were sent in. A start_ call begins what the call without start_ does
/// to the end; several may be under way, started by all ranks in the same order and waited for in
/// any.
///
/// Tensors may be strided, views are written through. They lie in host memory; a group on GPUs
/// takes both, on the current stream. Nothing is recorded by autograd. Equal calls give equal bits,
/// the same on all ranks. Host backends add in the order of the ranks. float16 and bfloat16 are
/// reduced in float32 and rounded once.
///
/// A caller's mistake (shape, dtype, rank, memory) throws c10::ValueError before anything is sent,
/// everything else CommError. One thread at a time calls a group.
class Group {
 public:
  virtual ~Group() = default;
  Group() = default;
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual const std::string& name() const = 0;  // for messages

  /// In place: every rank holds the sum or maximum over ranks. float32, float64, float16, bfloat16,
  /// int32, int64. Every rank sends 2 (size - 1) / size of the tensor.
  void all_reduce(at::Tensor& tensor, Reduce op) { start_all_reduce(tensor, op).wait(); }
  virtual Pending start_all_reduce(at::Tensor& tensor, Reduce op) = 0;

  /// In place: every rank holds what `root` holds. Any dtype.
  virtual void broadcast(at::Tensor& tensor, int root) = 0;

  /// (N, ...) to (size * N, ...): the parts of all ranks, in their order. Any dtype.
  at::Tensor all_gather(const at::Tensor& part);
  /// Into `whole`, which may hold `part` as this rank's own part.
  virtual Pending start_all_gather(at::Tensor& whole, const at::Tensor& part) = 0;

  /// (rows[rank], ...) to (sum of rows, ...). Every rank knows the rows of all.
  virtual at::Tensor all_gather_v(const at::Tensor& part, std::span<const std::int64_t> rows) = 0;

  /// (size * N, ...) to (N, ...): this rank's part of the sum over ranks. Dtypes as all_reduce.
  virtual at::Tensor reduce_scatter(const at::Tensor& whole) = 0;

  /// (sum of input_splits, ...) to (sum of output_splits, ...): the first input_splits[0] rows go
  /// to rank 0 and so on; out come the rows of rank 0, then those of rank 1. A split may be 0.
  at::Tensor all_to_all_v(const at::Tensor& rows, std::span<const std::int64_t> input_splits,
                          std::span<const std::int64_t> output_splits);
  virtual Pending start_all_to_all_v(at::Tensor& out, const at::Tensor& rows,
                                     std::span<const std::int64_t> input_splits,
                                     std::span<const std::int64_t> output_splits) = 0;

  /// To one rank, from one rank, of equal shape and dtype. A send may end only when the receiver
  /// has come: two ranks that send to each other use start_send. Not to oneself.
  void send(const at::Tensor& tensor, int to) { start_send(tensor, to).wait(); }
  void recv(at::Tensor& tensor, int from) { start_recv(tensor, from).wait(); }
  virtual Pending start_send(const at::Tensor& tensor, int to) = 0;
  virtual Pending start_recv(at::Tensor& tensor, int from) = 0;

  /// Returns when all ranks have come.
  virtual void barrier() = 0;

  /// Ranks that pass the same color (>= 0) form a group, ordered by their rank here.
  virtual std::unique_ptr<Group> split(int color, const std::string& name) = 0;
};

/// One rank: every collective is the identity.
std::unique_ptr<Group> make_single_group(std::string name = "world");
/// All ranks that the MPI launcher has started; every rank calls it. See mpi_start().
std::unique_ptr<Group> make_mpi_group(const GroupOptions& options = {});

}  // namespace tailor::distributed
