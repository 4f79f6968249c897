#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <stdexcept>
#include <string>

namespace tailor::distributed {

/// A peer, a wire or a call failed: the collective, the group, the rank. The group is of no further
/// use.
class CommError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Reduce { Sum, Max };

/// Ranks that communicate. Every call is collective: all ranks make it, in the same order, with the
/// same shape and dtype. Tensors are changed in place and are ready for use on return.
class Group {
 public:
  virtual ~Group() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual void all_reduce(at::Tensor& tensor, Reduce op) = 0;
  virtual void broadcast(at::Tensor& tensor, int root) = 0;
  /// Ranks that pass the same color form a group, ordered by their rank here.
  virtual std::unique_ptr<Group> split(int color, const std::string& name) = 0;
};

std::unique_ptr<Group> make_single_group();  // one rank: every collective is the identity

}  // namespace tailor::distributed
