#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/plan/traffic.hpp"

namespace tailor::trainer::plan {

/// Bytes on one GPU at the peak of a step.
struct RankMemory {
  double weights = 0.0;      // its part of the frozen base
  double gathered = 0.0;     // dp_shard: what is divided of the layer in use and of the next
  double adapter = 0.0;      // float32: values, gradients and two moments
  double activations = 0.0;  // of all micro-batches in flight, and the gradients of one layer
  double logits = 0.0;       // a chunk of them in float32 and their gradients
  double reserve = 0.0;      // CUDA, NCCL, work space, fragmentation: 2 GB + 5 %, a round figure

  double total() const { return weights + gathered + adapter + activations + logits + reserve; }
  /// The largest part, by the name users read.
  std::string largest() const;
};

struct StageCost {
  Stage stage;
  Share share;
  RankMemory memory;
  double compute_s = 0.0;        // of a micro-batch
  double communication_s = 0.0;  // of a micro-batch, as far as no computing hides it
  StageTraffic traffic;
};

/// One row of communication per rank and step.
struct AxisTraffic {
  std::string axis, what;
  Transfer transfer;
  bool hidden = false;  // wholly or in part behind computing
};

/// A step of m micro-batches on p stages takes (m + p - 1) times the slowest stage's micro-batch
/// (1F1B, Narayanan et al. 2019, PipeDream-Flush; arXiv:2104.04473, 2.2), of which the bubble is
/// (p - 1) / (m + p - 1), and the sums of gradients. Stage i holds the activations of
/// min(m, p - i) micro-batches. Of communication only the gathering of the base is taken to run
/// beside computing, up to the time that a pass computes; everything else is added.
struct LayoutCost {
  Layout layout;
  std::int64_t num_micro_batches = 0;
  std::vector<StageCost> stages;
  std::size_t slowest = 0, fullest = 0;  // stages
  double step_s = 0.0, compute_s = 0.0, gradients_s = 0.0;
  double bubble = 0.0;  // share of a step
  double tokens_per_second = 0.0;

  const RankMemory& memory() const { return stages[fullest].memory; }
  std::vector<AxisTraffic> traffic() const;  // of the slowest stage, a step
};

/// objection() must have none. Pure arithmetic: no file, no clock.
LayoutCost cost(const Architecture& architecture, const AdapterSpec& adapter,
                const ClusterSpec& cluster, const Workload& workload, const Layout& layout);

}  // namespace tailor::trainer::plan
