// A rank goes wrong under mpirun, in the way that the argument says; see mpi_fault_test.py.
#include <ATen/ops/ones.h>

#include <chrono>
#include <csignal>
#include <iostream>
#include <memory>
#include <string>
#include <thread>

#include "distributed/group.hpp"
#include "distributed/mpi_runtime.hpp"
#include "distributed/peer_watch.hpp"

namespace {

namespace distributed = tailor::distributed;

void go_wrong(const std::string& fault) {
  if (fault == "throw") throw std::runtime_error("no such file");
  if (fault == "stop" || fault == "watched_stop") std::raise(SIGSTOP);
  if (fault == "slow") std::this_thread::sleep_for(std::chrono::seconds(5));
  if (fault == "kill") std::raise(SIGKILL);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string fault = argv[1];
  distributed::mpi_start(&argc, &argv);
  int code = 1;
  try {
    const auto watch = std::make_shared<distributed::PeerWatch>(std::chrono::seconds(2));
    distributed::GroupOptions options{.timeout = std::chrono::seconds(2)};
    if (fault == "watched_stop" || fault == "slow")
      options = {.timeout = std::chrono::minutes(5),
                 .trouble = [watch] { return watch->trouble(); }};
    const auto group = distributed::make_mpi_group(options);
    watch->start(*group);
    auto tensor = at::ones({100'000});
    for (int i = 0; i < 3; ++i) {
      if (i == 2 && group->rank() == group->size() - 1) go_wrong(fault);
      group->all_reduce(tensor, distributed::Reduce::Sum);
    }
    code = 0;
  } catch (const distributed::CommError& e) {
    code = 4;
    std::cerr << "error: " << e.what() << std::endl;
  } catch (const std::exception& e) {
    code = 2;
    std::cerr << "error: " << e.what() << std::endl;
  }
  if (code != 0) distributed::mpi_abort(code);
  distributed::mpi_finish();
}
