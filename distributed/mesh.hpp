#pragma once

#include <memory>
#include <stdexcept>
#include <string>

#include "distributed/group.hpp"

namespace tailor::distributed {

/// The sizes do not fit each other or the job. `key` is the setting to blame, in the words of a job
/// file; the text names it, what was found and what was expected.
class MeshError : public std::runtime_error {
 public:
  MeshError(std::string wrong_key, const std::string& text)
      : std::runtime_error(wrong_key + ": " + text), key(std::move(wrong_key)) {}
  std::string key;
};

/// Ranks along each axis. The ranks of a job are numbered pp x dp x ep x tp, tp innermost, so that
/// what talks most lies on neighbours.
///
///   tp  one layer over several ranks: parts of every matrix, all of every token
///   ep  the experts of a layer over several ranks; each has data of its own
///   dp  replicas, each with data of its own
///   pp  layers over several ranks, one stage after another
///
/// Data differs between dp x ep ranks. dp_shard of these, neighbours, divide the frozen weights
/// that they have in common among them.
struct MeshSizes {
  int dp = 1, tp = 1, ep = 1, pp = 1;
  int dp_shard = 1;

  int world() const { return dp * tp * ep * pp; }
  int data() const { return dp * ep; }
};

/// `sizes` with the dp that makes use of `num_ranks`; the given dp is ignored. Throws MeshError.
MeshSizes fit_mesh(MeshSizes sizes, int num_ranks);

std::string describe(const MeshSizes& sizes);  // "pp 2 x dp 1 x ep 1 x tp 4"

/// Where a rank stands on each axis.
struct MeshPlace {
  int dp = 0, tp = 0, ep = 0, pp = 0;
};
MeshPlace place_of(const MeshSizes& sizes, int rank);
int rank_at(const MeshSizes& sizes, const MeshPlace& place);

/// A rank's place and the groups it is in, each ordered by the rank in the job. A group of one rank
/// costs nothing.
struct Mesh {
  MeshSizes sizes;
  MeshPlace place;

  std::shared_ptr<Group> dp, tp, ep, pp;  // along one axis
  std::shared_ptr<Group> data;          // dp x ep: all that see other data; rank dp * ep_size + ep
  std::shared_ptr<Group> model;         // pp x tp: one replica's ranks, which see the same data
  std::shared_ptr<Group> dp_shard;      // of data: divide the weights that all of them have
  std::shared_ptr<Group> expert_shard;  // of dp_shard, with the same experts: divide these
};

/// Collective over `world`, whose size is that of `sizes` (as from fit_mesh). Throws MeshError.
Mesh make_mesh(Group& world, const MeshSizes& sizes);

}  // namespace tailor::distributed
