#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "distributed/mesh.hpp"
#include "trainer/parallel/placement.hpp"

namespace tailor::trainer {

/// Where the parts of a step's flat gradient are summed. A gradient is summed over tp where the
/// parameter is not a part, and over dp x ep, or over dp alone for experts. In the squared norm a
/// part is counted by every rank that holds one and a copy once; every stage of a pipeline has
/// parameters of its own.
class GradientSync {
 public:
  /// Consecutive parameters of one placement, which are summed in one call.
  struct Bucket {
    Placement placement;
    std::int64_t num_elements = 0;
    std::size_t num_parameters = 0;
    std::int64_t lowest_layer = 0;  // backward comes to it last
  };

  /// `mesh` outlives this. A bucket is full once it holds so many elements.
  GradientSync(const distributed::Mesh& mesh, std::vector<Bucket> buckets);
  /// For flat tensors in the order of `trainables`.
  GradientSync(const distributed::Mesh& mesh, const std::vector<peft::Trainable>& trainables,
               std::int64_t bucket_elements = kBucketElements);

  distributed::Group& data() const { return *mesh_.data; }
  const distributed::Mesh& mesh() const { return mesh_; }
  const std::vector<Bucket>& buckets() const { return buckets_; }  // in the order of flat tensors
  double norm(const at::Tensor& gradients) const;  // Euclidean, of the whole adapter, on all ranks

  /// 1 MiB: a call's latency is small beside it, and an adapter still makes several.
  static constexpr std::int64_t kBucketElements = std::int64_t{1} << 18;

 private:
  const distributed::Mesh& mesh_;
  std::vector<Bucket> buckets_;
};

/// The sum over ranks of one step's gradients, in place: begun bucket by bucket while the step's
/// last backward still computes (Li et al. 2020, arXiv:2006.15704), from the last layer to the
/// first, on all ranks in the same order. From its first bucket until begin_rest() has returned a
/// rank makes no other call over dp x ep or dp: a rank without a backward begins its buckets there.
/// Over tp a bucket is summed inside backward, blocking, between the layers' own calls: ranks of tp
/// run the same backward and reach the same parameters.
class GradientReduction {
 public:
  /// `parameters`: the leaves whose gradients are the views of `gradients`, in the order of
  /// sync.buckets(). `sync` outlives this. One reduction at a time watches a parameter, as long as
  /// it lives.
  GradientReduction(const GradientSync& sync, std::vector<at::Tensor> parameters,
                    at::Tensor gradients);
  ~GradientReduction();
  GradientReduction(const GradientReduction&) = delete;
  GradientReduction& operator=(const GradientReduction&) = delete;

  const GradientSync& sync() const { return sync_; }
  /// Runs a backward, the step's last one or not; behind the last there is no other.
  void run(bool last, const std::function<void()>& backward);
  /// Begins what is left: on every rank, before its next call over these groups. Again: nothing.
  void begin_rest();
  void wait();  // begin_rest(), then until all is summed; gradients are not read before
  std::size_t num_begun() const { return num_begun_; }  // buckets

 private:
  struct Part;
  class Watch;
  void note(std::size_t part);
  void begin(Part& part);

  const GradientSync& sync_;
  std::vector<at::Tensor> parameters_;
  std::vector<Part> parts_;  // in the order in which they begin
  std::size_t num_begun_ = 0;
  bool is_last_ = false;
};

}  // namespace tailor::trainer
