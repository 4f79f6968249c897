#include <cstdlib>

#include "distributed/group.hpp"
#include "distributed/mpi_runtime.hpp"

namespace tailor::distributed {
namespace {

constexpr const char* kWithoutMpi = "this program was built without MPI";

}  // namespace

std::unique_ptr<Group> make_mpi_group(const GroupOptions& /*options*/) {
  throw CommError(kWithoutMpi);
}
void mpi_start(int* /*argc*/, char*** /*argv*/) { throw CommError(kWithoutMpi); }
void mpi_finish(std::unique_ptr<Group> /*world*/, std::chrono::milliseconds /*limit*/,
                const std::function<void()>& /*late*/) {}
void mpi_abort(int exit_code) { std::_Exit(exit_code); }
NodeRank mpi_node_rank(Group& /*world*/) { return {}; }

}  // namespace tailor::distributed
