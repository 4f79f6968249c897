#include "distributed/thread_group.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/ones.h>

#include <catch2/catch.hpp>
#include <thread>

#include "tests/distributed/group_cases.hpp"
#include "tests/support/on_ranks.hpp"

namespace tailor::distributed {
namespace {

using Catch::Contains;
using std::chrono::milliseconds;

/// What the ranks found wrong, rank by rank.
std::vector<std::string> findings(const GroupCase& group_case, int num_ranks,
                                  const GroupOptions& options) {
  std::vector<Findings> by_rank(static_cast<std::size_t>(num_ranks));
  run_thread_ranks(
      num_ranks,
      [&](Group& group) { group_case.run(group, by_rank[static_cast<std::size_t>(group.rank())]); },
      options);
  std::vector<std::string> out;
  for (std::size_t r = 0; r < by_rank.size(); ++r)
    for (const auto& text : by_rank[r].found())
      out.push_back("rank " + std::to_string(r) + ": " + text);
  return out;
}

/// The error that every rank saw; empty: none.
std::vector<std::string> errors(int num_ranks, const std::function<void(Group&)>& body,
                                const GroupOptions& options = kThreadOptions) {
  std::vector<std::string> out(static_cast<std::size_t>(num_ranks));
  run_thread_ranks(
      num_ranks,
      [&](Group& group) {
        try {
          body(group);
        } catch (const CommError& e) {
          out[static_cast<std::size_t>(group.rank())] = e.what();
        }
      },
      options);
  return out;
}

}  // namespace

TEST_CASE("groups of threads do what every group does") {
  for (const int num_ranks : {1, 2, 3, 4, 7}) {
    for (const auto& one : group_cases()) {
      CAPTURE(num_ranks, one.name);
      CHECK(findings(one, num_ranks, kThreadOptions) == std::vector<std::string>{});
    }
  }
}

TEST_CASE("so they do without comparing calls") {
  for (const auto& one : group_cases()) {
    CAPTURE(one.name);
    CHECK(findings(one, 3, {.timeout = std::chrono::seconds(60)}) == std::vector<std::string>{});
  }
}

TEST_CASE("a group of one rank does what every group does") {
  const auto group = make_single_group("one");
  CHECK(group->name() == "one");
  for (const auto& one : group_cases()) {
    CAPTURE(one.name);
    Findings findings;
    one.run(*group, findings);
    CHECK(findings.found() == std::vector<std::string>{});
  }
}

TEST_CASE("a rank computes with one thread") {
  CHECK(on_ranks(3, [](Group&) { return at::get_num_threads(); }) == std::vector{1, 1, 1});
}

TEST_CASE("a rank that does not come is named when the time is up") {
  const auto begin = std::chrono::steady_clock::now();
  const auto texts = errors(3,
                            [](Group& group) {
                              auto tensor = at::ones({4});
                              group.all_reduce(tensor, Reduce::Sum);
                              const auto part = group.split(0, "part");
                              if (group.rank() == 1) std::this_thread::sleep_for(milliseconds(600));
                              if (group.rank() != 1) part->all_reduce(tensor, Reduce::Sum);
                            },
                            {.timeout = milliseconds(200)});
  CHECK(texts[0] == "all_reduce #1 of group part, rank 0 of 3: no answer from rank 1 within 0.2 s");
  CHECK(texts[1].empty());
  CHECK(texts[2] == "all_reduce #1 of group part, rank 2 of 3: no answer from rank 1 within 0.2 s");
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(5));
}

TEST_CASE("a rank that throws releases the others with its reason") {
  std::vector<std::string> texts(3);
  const auto body = [&](Group& group) {
    if (group.rank() == 1) throw std::runtime_error("the disk is full");
    try {
      group.barrier();
    } catch (const CommError& e) {
      texts[static_cast<std::size_t>(group.rank())] = e.what();
      throw;
    }
  };
  CHECK_THROWS_WITH(run_thread_ranks(3, body), "the disk is full");
  for (const int r : {0, 2})
    CHECK_THAT(texts[static_cast<std::size_t>(r)],
               Contains("barrier #1 of group world, rank " + std::to_string(r) + " of 3: ") &&
                   Contains("rank 1") && (Contains("failed: the disk is full")));
}

TEST_CASE("a message of a rank that has returned is not waited for") {
  const auto texts = errors(2, [](Group& group) {
    auto tensor = at::ones({4});
    if (group.rank() == 0) group.recv(tensor, 1);
  });
  CHECK(texts[0] == "recv #1 from rank 1 of group world, rank 0 of 2: rank 1 has ended");
}

TEST_CASE("different calls are told on all ranks") {
  const auto calls = [](Group& group, bool first) {
    auto tensor = at::ones({first ? 4 : 8});
    first ? group.all_reduce(tensor, Reduce::Sum) : group.broadcast(tensor, 0);
  };
  const auto texts = errors(2, [&](Group& group) { calls(group, group.rank() == 0); });
  CHECK(texts[0] ==
        "all_reduce #1 of group world, rank 0 of 2: rank 1 calls broadcast(root 0) of 8 Float, "
        "this one all_reduce(sum) of 4 Float");
  CHECK(texts[1] ==
        "broadcast #1 of group world, rank 1 of 2: rank 0 calls all_reduce(sum) of 4 Float, this "
        "one broadcast(root 0) of 8 Float");
}

TEST_CASE("splits that do not fit together are told") {
  const auto texts = errors(2, [](Group& group) {
    const std::vector<std::int64_t> splits{1, 1}, wrong{2, 1};
    group.all_to_all_v(at::ones({2, 3}), splits, group.rank() == 1 ? wrong : splits);
  });
  CHECK(texts[1] ==
        "all_to_all_v #1 of group world, rank 1 of 2: rank 0 sends 1 rows, 2 are expected");
}

TEST_CASE("the first exception is thrown again") {
  CHECK_THROWS_WITH(run_thread_ranks(3,
                                     [](Group& group) {
                                       if (group.rank() == 2) throw std::runtime_error("first");
                                       group.barrier();
                                     }),
                    "first");
}

}  // namespace tailor::distributed
