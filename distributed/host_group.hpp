#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "distributed/group.hpp"

namespace tailor::distributed {

/// One call of one rank: what it is named in errors, and its number among the calls of the group.
struct Call {
  std::string text;           // "all_reduce #5 of group tp, rank 0 of 2"
  std::int64_t sequence = 0;  // the same on all ranks; of a message: among those of the two ranks
  int step = 0;               // below kMaxSteps: of a call that moves data several times
};
constexpr int kMaxSteps = 4;

/// Throws CommError unless as many bytes came from a rank as were expected.
void check_size(const Call& call, int from, std::size_t received, std::size_t expected);

/// "CALL: no answer from ranks 1, 2 within 10.0 s"; without `ranks` it is not known from whom.
CommError no_answer(const Call& call, const std::vector<int>& ranks,
                    std::chrono::milliseconds timeout);

/// Of a contiguous tensor.
inline std::span<const std::byte> bytes_of(const at::Tensor& tensor) {
  return {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()};
}

inline std::span<std::byte> writable_bytes_of(const at::Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.mutable_data_ptr()), tensor.nbytes()};
}

/// A group over host memory. A backend moves bytes; arithmetic, shapes and checks are here.
///
///   call            steps                                     bytes a rank sends (N: the tensor)
///   all_reduce      gather, add up all          (N <= 64 KiB) (size - 1) N
///                   exchange parts, add up one, exchange      2 (size - 1) / size N
///   broadcast       tree                                      up to log2(size) N
///   all_gather(_v)  exchange                                  (size - 1) N
///   reduce_scatter  exchange parts, add up one                (size - 1) / size N
///   all_to_all_v    exchange                                  what the splits say
class HostGroup : public Group {
 public:
  int rank() const final { return rank_; }
  int size() const final { return size_; }
  const std::string& name() const final { return name_; }

  Pending start_all_reduce(at::Tensor& tensor, Reduce op) final;
  void broadcast(at::Tensor& tensor, int root) final;
  Pending start_all_gather(at::Tensor& whole, const at::Tensor& part) final;
  at::Tensor all_gather_v(const at::Tensor& part, std::span<const std::int64_t> rows) final;
  at::Tensor reduce_scatter(const at::Tensor& whole) final;
  Pending start_all_to_all_v(at::Tensor& out, const at::Tensor& rows,
                             std::span<const std::int64_t> input_splits,
                             std::span<const std::int64_t> output_splits) final;
  Pending start_send(const at::Tensor& tensor, int to) final;
  Pending start_recv(at::Tensor& tensor, int from) final;
  void barrier() final;
  std::unique_ptr<Group> split(int color, const std::string& name) final;

 protected:
  using Work = Pending::Work;
  using Source = std::span<const std::byte>;
  using Target = std::span<std::byte>;
  using Held = std::vector<at::Tensor>;  // what the bytes belong to, alive until the work is done

  HostGroup(int rank, int size, std::string name, const GroupOptions& options);
  const GroupOptions& options() const { return options_; }

  /// Sends sources[r] to rank r and fills targets[r] from rank r; what is empty is not sent, and
  /// this rank's own entries are left alone.
  virtual std::unique_ptr<Work> exchange(const Call& call, std::vector<Source> sources,
                                         std::vector<Target> targets, Held held) = 0;
  virtual std::unique_ptr<Work> broadcast(const Call& call, Target bytes, int root, Held held) = 0;
  virtual std::unique_ptr<Work> send(const Call& call, Source bytes, int to, Held held) = 0;
  virtual std::unique_ptr<Work> recv(const Call& call, Target bytes, int from, Held held) = 0;
  /// The group of `members`, ranks of this one, this one among them at `rank`.
  virtual std::unique_ptr<Group> make_part(const Call& call, int color, int rank,
                                           const std::vector<int>& members,
                                           const std::string& name) = 0;

  /// `part` of every rank, as many bytes on all, into `whole` on all.
  std::unique_ptr<Work> gather(const Call& call, Source part, Target whole, Held held);

 private:
  /// Numbers a collective; with check_calls, throws where the ranks do not make the same one.
  Call begin(const char* what, const std::string& arguments);
  Call message(const char* what, const char* direction, int peer, std::int64_t number) const;
  void compare(const Call& call, const std::string& signature);
  void compare_splits(const Call& call, std::span<const std::int64_t> input_splits,
                      std::span<const std::int64_t> output_splits);
  std::string place(const std::string& what) const;

  /// Rows `splits[r]` of a contiguous tensor, one span a rank.
  static std::vector<Source> sources(const at::Tensor& tensor,
                                     std::span<const std::int64_t> splits);
  static std::vector<Target> targets(const at::Tensor& tensor,
                                     std::span<const std::int64_t> splits);

  int rank_, size_;
  std::string name_;
  GroupOptions options_;
  std::int64_t num_calls_ = 0;
  std::vector<std::int64_t> num_sent_, num_received_;  // by rank
};

}  // namespace tailor::distributed
