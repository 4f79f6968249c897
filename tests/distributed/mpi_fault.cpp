// A rank goes wrong under mpirun, in the way that the argument says; see mpi_fault_test.py.
#include <ATen/ops/ones.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "distributed/group.hpp"
#include "distributed/mpi_runtime.hpp"
#include "distributed/peer_watch.hpp"

namespace {

namespace distributed = tailor::distributed;
using std::chrono::milliseconds;
using std::chrono::seconds;

void go_wrong(const std::string& fault) {
  if (fault == "throw") throw std::runtime_error("no such file");
  if (fault == "stop" || fault == "watched_stop") std::raise(SIGSTOP);
  if (fault == "slow") std::this_thread::sleep_for(seconds(5));
  if (fault == "kill") std::raise(SIGKILL);
}

/// The last rank stops while it waits for the first one, which comes late.
void stop_in_wait(const distributed::Group& group) {
  if (group.rank() == 0) std::this_thread::sleep_for(seconds(1));
  if (group.rank() + 1 < group.size()) return;
  std::thread([] {
    std::this_thread::sleep_for(milliseconds(400));
    std::raise(SIGSTOP);  // the whole process
  }).detach();
}

distributed::GroupOptions options_of(const std::string& fault,
                                     const std::shared_ptr<distributed::PeerWatch>& watch) {
  distributed::GroupOptions options{.timeout = seconds(2)};
  if (fault == "watched_stop" || fault == "slow" || fault == "stop_at_end")
    options = {.timeout = std::chrono::minutes(5), .trouble = [watch] { return watch->trouble(); }};
  // The group drops its options when all ranks have come, on the way into MPI_Finalize.
  if (fault == "stop_in_finalize" && distributed::launcher_rank() == 2)
    options.trouble = [stop = std::shared_ptr<void>(nullptr, [](void*) { std::raise(SIGSTOP); })] {
      return std::string();
    };
  return options;
}

void run(const std::string& fault) {
  if (fault == "stop_at_start" && distributed::launcher_rank() == 2) std::raise(SIGSTOP);
  const auto watch = std::make_shared<distributed::PeerWatch>(seconds(2));
  auto group = distributed::make_mpi_group(options_of(fault, watch));
  watch->start(*group);
  auto tensor = at::ones({100'000});
  for (int i = 0; i < 3; ++i) {
    if (i == 2 && group->rank() == group->size() - 1) go_wrong(fault);
    group->all_reduce(tensor, distributed::Reduce::Sum);
  }
  if (fault == "stop_in_split") stop_in_wait(*group);
  group->split(/*color=*/0, "part")->barrier();
  if (fault == "stop_on_node") stop_in_wait(*group);
  distributed::mpi_node_rank(*group);
  if (fault == "stop_at_end") stop_in_wait(*group);
  distributed::mpi_finish(std::move(group), seconds(2), [] {
    std::cerr << "error: MPI_Finalize lasts" << std::endl;
    std::_Exit(4);
  });
}

}  // namespace

int main(int argc, char** argv) {
  int code = 0;
  distributed::mpi_start(&argc, &argv);
  try {
    run(argv[1]);
  } catch (const distributed::CommError& e) {
    code = 4;
    std::cerr << "error: " << e.what() << std::endl;
  } catch (const std::exception& e) {
    code = 2;
    std::cerr << "error: " << e.what() << std::endl;
  }
  if (code != 0) distributed::mpi_abort(code);
}
