#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "distributed/mesh.hpp"
#include "trainer/parallel/placement.hpp"

namespace tailor::trainer {

/// Sums over ranks of what a step adds up. One call each for all parameters of the same placement,
/// which are neighbours in the flat tensors. A gradient is summed over tp where the parameter is
/// not a part, and over dp x ep, or over dp alone for experts. In the squared norm a part is
/// counted by every rank that holds one and a copy once; every stage of a pipeline has parameters
/// of its own.
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
