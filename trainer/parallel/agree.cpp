#include "trainer/parallel/agree.hpp"

#include <ATen/ops/full.h>

namespace tailor::trainer {

std::int64_t most_of_ranks(std::int64_t number, distributed::Group& group) {
  auto most = at::full({1}, number, at::kLong);
  group.all_reduce(most, distributed::Reduce::Max);
  return *most.const_data_ptr<std::int64_t>();
}

bool any_rank(bool flag, distributed::Group& group) {
  return most_of_ranks(flag ? 1 : 0, group) != 0;
}

distributed::Group* lockstep_group(const distributed::Mesh& mesh) {
  if (mesh.sizes.dp_shard > 1) return mesh.data.get();
  return mesh.sizes.ep > 1 ? mesh.ep.get() : nullptr;
}

}  // namespace tailor::trainer
