#pragma once

#include <memory>

#include "distributed/group.hpp"
#include "models/families/causal_lm.hpp"
#include "models/layers/residency.hpp"

namespace tailor::distributed {

/// The frozen matrices of a decoder's layers, divided over ranks that all need them: each holds 1 /
/// size of a layer, which is gathered a layer ahead and dropped behind its use (fully sharded data
/// parallelism, Zhao et al. 2023, arXiv:2304.11277; ZeRO stage 3, Rajbhandari et al. 2019,
/// arXiv:1910.02054). A micro-batch costs two gathers of every layer, forward and backward. Norms,
/// routers, embedding and head stay whole. Ranks must make the same number of forwards and
/// backwards.
class ShardedBase : public models::LayerResidency {
 public:
  /// A models::TakeParameter: of a matrix that is divided it reads the rows of this rank's part
  /// alone, all others it leaves to the loader.
  virtual bool take(const models::NamedParameter& parameter, const models::ReadRows& read) = 0;
};

/// Before loading and before adapters are seated; the answer is the decoder's residency from now
/// on. Matrices of experts are divided over `experts`, whose ranks hold the same ones, the others
/// over `common`. Groups of one rank divide nothing.
std::shared_ptr<ShardedBase> shard_base(models::CausalLM& model, std::shared_ptr<Group> common,
                                        std::shared_ptr<Group> experts);

}  // namespace tailor::distributed
