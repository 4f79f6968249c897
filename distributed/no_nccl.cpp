#include "distributed/nccl_group.hpp"

namespace tailor::distributed {

bool has_nccl() { return false; }

std::unique_ptr<Group> make_nccl_group(std::unique_ptr<Group> /*host*/, int /*device*/,
                                       const GroupOptions& /*options*/) {
  throw CommError("this program was built without NCCL");
}

}  // namespace tailor::distributed
