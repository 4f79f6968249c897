#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>

#include <catch2/catch.hpp>
#include <thread>

#include "distributed/group.hpp"
#include "distributed/mpi_runtime.hpp"
#include "tests/distributed/group_cases.hpp"

// A rank that leaves a test early would let the others hang: only CHECK.
namespace tailor::distributed {
namespace {

using Catch::Contains;
using std::chrono::milliseconds;
using std::chrono::seconds;

void check_all_cases(Group& group) {
  for (const auto& one : group_cases()) {
    CAPTURE(group.rank(), group.size(), one.name);
    Findings findings;
    one.run(group, findings);
    CHECK(findings.found() == std::vector<std::string>{});
  }
}

/// The text of the CommError; empty: none.
template <typename Call>
std::string error_of(const Call& call) {
  try {
    call();
    return "";
  } catch (const CommError& e) {
    return e.what();
  }
}

}  // namespace

TEST_CASE("groups over MPI do what every group does") {
  check_all_cases(*make_mpi_group({.timeout = seconds(20), .check_calls = true}));
}

TEST_CASE("so they do without comparing calls, in parts and in messages of 24 bytes") {
  check_all_cases(*make_mpi_group({.timeout = seconds(20)}));
  const auto world = make_mpi_group({.timeout = seconds(20), .max_message_bytes = 24'000});
  check_all_cases(*world->split(world->rank() == 0 ? 1 : 0, "part"));
  check_all_cases(*world);
}

TEST_CASE("the ranks of one machine count themselves") {
  const auto world = make_mpi_group({.timeout = seconds(20)});
  const auto node = mpi_node_rank(*world);  // the tests run on one
  CHECK(node.rank == world->rank());
  CHECK(node.size == world->size());
  CHECK(under_mpi_launcher());
}

TEST_CASE("a rank that does not come is named when the time is up") {
  make_mpi_group({.timeout = seconds(20)})->barrier();  // the next one is to be made within 0.3 s
  const auto limited = make_mpi_group({.timeout = milliseconds(300)});
  if (limited->size() == 1) return;
  const int absent = limited->size() - 1;
  if (limited->rank() == absent) {
    std::this_thread::sleep_for(milliseconds(1500));
  } else {
    const auto begin = std::chrono::steady_clock::now();
    auto tensor = at::ones({4});
    const auto place = " of group world, rank " + std::to_string(limited->rank()) + " of " +
                       std::to_string(limited->size()) + ": no answer from rank " +
                       std::to_string(absent) + " within 0.3 s";
    CHECK(error_of([&] { limited->all_reduce(tensor, Reduce::Sum); }) == "all_reduce #1" + place);
    const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - begin;
    CHECK(waited.count() >= 0.3);
    CHECK(waited.count() < 1.2);
    CHECK(error_of([&] { limited->broadcast(tensor, absent); }) == "broadcast #2" + place);
  }
  const auto world = make_mpi_group({.timeout = seconds(20)});
  world->barrier();
}

TEST_CASE("different calls are told on all ranks") {
  const auto group = make_mpi_group({.timeout = seconds(20), .check_calls = true});
  if (group->size() == 1) return;
  auto tensor = at::ones({group->rank() == 0 ? 8 : 4});
  const auto text = error_of([&] { group->all_reduce(tensor, Reduce::Sum); });
  CHECK_THAT(text, Contains("all_reduce #1 of group world") &&
                       Contains("all_reduce(sum) of 8 Float") &&
                       Contains("all_reduce(sum) of 4 Float"));
}

TEST_CASE("other counts than expected are told without comparing calls") {
  const auto group = make_mpi_group({.timeout = seconds(20)});
  if (group->size() == 1) return;
  auto tensor = at::ones({group->rank() == 0 ? 8 : 4});
  const auto text = error_of([&] { group->all_reduce(tensor, Reduce::Sum); });
  // The one that gets too much hears it from MPI, the one that gets too little from us.
  CHECK_THAT(text, group->rank() == 0 ? Contains("sent 16 bytes, 32 were expected")
                                      : Contains("all_reduce #1 of group world"));
  make_mpi_group({.timeout = seconds(20)})->barrier();
}

TEST_CASE("more than 2^31 bytes go through", "[.slow]") {  // 2 GiB a rank and more
  const auto group = make_mpi_group({.timeout = seconds(60)});
  constexpr std::int64_t kBytes = (std::int64_t{1} << 31) + 5;
  auto tensor = at::full({kBytes}, group->rank() == 0 ? 7 : 0, at::kByte);
  group->broadcast(tensor, 0);
  CHECK(tensor[kBytes - 1].item<int>() == 7);
  if (group->rank() == 0) tensor[kBytes - 2] = 9;
  if (group->rank() == 0 && group->size() > 1) group->send(tensor, 1);
  if (group->rank() == 1) group->recv(tensor, 0);
  if (group->rank() < 2) CHECK(tensor[kBytes - 2].item<int>() == 9);
}

}  // namespace tailor::distributed
