#include "distributed/mesh.hpp"

#include <algorithm>
#include <utility>

namespace tailor::distributed {
namespace {

using std::to_string;

void check_at_least_one(const char* key, int size) {
  if (size < 1) throw MeshError(key, to_string(size) + " is less than 1");
}

/// The sizes of ep, tp and pp that are not 1, as "tensor_parallel_size 2 x expert_parallel_size 3".
std::string product_text(const MeshSizes& sizes) {
  std::string out;
  for (const auto& [key, size] : {std::pair{"pipeline_parallel_size", sizes.pp},
                                  {"expert_parallel_size", sizes.ep},
                                  {"tensor_parallel_size", sizes.tp}}) {
    if (size > 1) out += (out.empty() ? "" : " x ") + std::string(key) + " " + to_string(size);
  }
  return out;
}

/// The largest of ep, tp and pp: where a product is too large, it is to blame first.
const char* largest_key(const MeshSizes& sizes) {
  const int largest = std::max({sizes.tp, sizes.ep, sizes.pp});
  if (largest == sizes.tp) return "tensor_parallel_size";
  return largest == sizes.ep ? "expert_parallel_size" : "pipeline_parallel_size";
}

void check_shard(const MeshSizes& sizes) {
  constexpr const char* kKey = "dp_shard_size";
  check_at_least_one(kKey, sizes.dp_shard);
  if (sizes.data() % sizes.dp_shard != 0) {
    throw MeshError(kKey, to_string(sizes.dp_shard) + " does not divide the " +
                              to_string(sizes.data()) + " ranks that hold different data (dp " +
                              to_string(sizes.dp) + " x expert_parallel_size " +
                              to_string(sizes.ep) + ")");
  }
  // Else ranks of a shard would have some experts in common and others not.
  if (sizes.dp_shard % sizes.ep != 0 && sizes.ep % sizes.dp_shard != 0) {
    throw MeshError(kKey, to_string(sizes.dp_shard) +
                              " is neither a multiple nor a divisor of expert_parallel_size " +
                              to_string(sizes.ep));
  }
}

std::unique_ptr<Group> part(Group& world, int size, const MeshPlace& origin, const MeshSizes& sizes,
                            const char* name) {
  if (size == 1) return make_single_group(name);
  return world.split(rank_at(sizes, origin), name);
}

}  // namespace

MeshSizes fit_mesh(MeshSizes sizes, int num_ranks) {
  check_at_least_one("tensor_parallel_size", sizes.tp);
  check_at_least_one("expert_parallel_size", sizes.ep);
  check_at_least_one("pipeline_parallel_size", sizes.pp);
  const auto product = std::int64_t{sizes.tp} * sizes.ep * sizes.pp;
  if (num_ranks % product != 0) {
    const auto text = product_text(sizes);
    const bool is_product = text.find(" x ") != std::string::npos;
    throw MeshError(largest_key(sizes),
                    (is_product ? text + " = " + to_string(product) : to_string(product)) +
                        " does not divide the " + to_string(num_ranks) +
                        (num_ranks == 1 ? " rank" : " ranks") + " of this job; start it with " +
                        to_string(product) + " or a multiple");
  }
  sizes.dp = static_cast<int>(num_ranks / product);
  check_shard(sizes);
  return sizes;
}

std::string describe(const MeshSizes& sizes) {
  auto out = "pp " + to_string(sizes.pp) + " x dp " + to_string(sizes.dp) + " x ep " +
             to_string(sizes.ep) + " x tp " + to_string(sizes.tp);
  if (sizes.dp_shard > 1) out += ", dp_shard " + to_string(sizes.dp_shard);
  return out;
}

MeshPlace place_of(const MeshSizes& sizes, int rank) {
  MeshPlace out;
  out.tp = rank % sizes.tp;
  rank /= sizes.tp;
  out.ep = rank % sizes.ep;
  rank /= sizes.ep;
  out.dp = rank % sizes.dp;
  out.pp = rank / sizes.dp;
  return out;
}

int rank_at(const MeshSizes& sizes, const MeshPlace& place) {
  return ((place.pp * sizes.dp + place.dp) * sizes.ep + place.ep) * sizes.tp + place.tp;
}

Mesh make_mesh(Group& world, const MeshSizes& sizes) {
  if (fit_mesh(sizes, world.size()).dp != sizes.dp) {
    throw MeshError("dp", describe(sizes) + " is a mesh of " + to_string(sizes.world()) +
                              " ranks, the job has " + to_string(world.size()));
  }
  Mesh mesh{.sizes = sizes, .place = place_of(sizes, world.rank())};
  const auto along = [&](const char* name, int size, int MeshPlace::*axis) {
    auto origin = mesh.place;
    origin.*axis = 0;
    return part(world, size, origin, sizes, name);
  };
  mesh.dp = along("dp", sizes.dp, &MeshPlace::dp);
  mesh.tp = along("tp", sizes.tp, &MeshPlace::tp);
  mesh.ep = along("ep", sizes.ep, &MeshPlace::ep);
  mesh.pp = along("pp", sizes.pp, &MeshPlace::pp);

  auto origin = mesh.place;
  origin.dp = origin.ep = 0;
  mesh.data = part(world, sizes.data(), origin, sizes, "data");

  origin = mesh.place;
  origin.pp = origin.tp = 0;
  mesh.model = part(world, sizes.pp * sizes.tp, origin, sizes, "model");

  const int data_rank = mesh.place.dp * sizes.ep + mesh.place.ep;
  const int first = data_rank - data_rank % sizes.dp_shard;
  origin = mesh.place;
  origin.dp = first / sizes.ep;
  origin.ep = first % sizes.ep;
  mesh.dp_shard = part(world, sizes.dp_shard, origin, sizes, "dp_shard");
  origin.ep = mesh.place.ep;  // from here on the same experts only
  mesh.expert_shard =
      part(world, std::max(1, sizes.dp_shard / sizes.ep), origin, sizes, "expert_shard");
  return mesh;
}

}  // namespace tailor::distributed
