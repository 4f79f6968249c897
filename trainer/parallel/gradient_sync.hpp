#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "distributed/mesh.hpp"
#include "trainer/parallel/placement.hpp"

namespace tailor::trainer {

/// Sums over ranks of what a step adds up. One call each for all parameters of the same placement,
/// which are neighbours in the flat tensors:
///   gradient: over tp where the parameter is not a part; over dp x ep, or over dp alone for
///   experts squared norm: a part is counted by every rank that holds one, a copy once
class GradientSync {
 public:
  /// Elements of consecutive parameters of one placement, in the order of the flat tensors.
  struct Segment {
    Placement placement;
    std::int64_t num_elements = 0;
  };

  /// `mesh` outlives this.
  GradientSync(const distributed::Mesh& mesh, std::vector<Segment> segments);
  /// For flat tensors in the order of `trainables`.
  GradientSync(const distributed::Mesh& mesh, const std::vector<peft::Trainable>& trainables);

  distributed::Group& data() const { return *mesh_.data; }
  const distributed::Mesh& mesh() const { return mesh_; }
  void reduce(at::Tensor& gradients) const;        // in place, flat float32
  double norm(const at::Tensor& gradients) const;  // Euclidean, of the whole adapter, on all ranks

 private:
  const distributed::Mesh& mesh_;
  std::vector<Segment> segments_;
};

}  // namespace tailor::trainer
