#include "tests/distributed/group_cases.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/remainder.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>

#include <chrono>
#include <cmath>
#include <deque>
#include <thread>

// N rows, D columns, R ranks. Values are small integers, so that sums are exact in every dtype.
namespace tailor::distributed {

void Findings::expect_equal(const at::Tensor& actual, const at::Tensor& expected,
                            const std::string& what) {
  const bool same = actual.scalar_type() == expected.scalar_type() && at::equal(actual, expected);
  expect(same, same ? ""
                    : c10::str(what, ": ", actual.flatten().slice(0, 0, 8), " is not ",
                               expected.flatten().slice(0, 0, 8)));
}

namespace {

using c10::str;

const std::vector<at::ScalarType> kNumbers{at::kFloat,    at::kDouble, at::kHalf,
                                           at::kBFloat16, at::kInt,    at::kLong};
const std::vector<at::ScalarType> kAll{at::kFloat, at::kBFloat16, at::kLong,
                                       at::kShort, at::kByte,     at::kBool};
const std::vector<std::int64_t> kSizes{0, 1, 7, 1000};
constexpr std::int64_t kLarge = 40'011;  // past the size where a reduction goes in two steps; odd

/// (r + 1) times 1, 2, 3, 1, 2, 3 ...
at::Tensor pattern(std::int64_t size, std::int64_t factor, at::ScalarType dtype) {
  return ((at::remainder(at::arange(size), 3) + 1) * factor).to(dtype);
}

/// The `rows` rows (rows, D) that rank `r` holds in dtype; any two ranks differ.
at::Tensor rows_of(std::int64_t r, std::int64_t rows, std::int64_t D, at::ScalarType dtype) {
  if (dtype == at::kBool)
    return at::remainder(at::arange(rows * D) + r, 2).to(dtype).view({rows, D});
  return at::remainder(at::arange(rows * D) + 31 * r, 127).to(dtype).view({rows, D});
}

void reduces_in_place(Group& group, Findings& findings) {
  const std::int64_t R = group.size();
  auto sizes = kSizes;
  sizes.push_back(kLarge);
  for (const auto dtype : kNumbers) {
    for (const auto size : sizes) {
      const auto what = str(c10::toString(dtype), " x ", size);
      auto tensor = pattern(size, group.rank() + 1, dtype);
      const auto* before = tensor.const_data_ptr();
      group.all_reduce(tensor, Reduce::Sum);
      findings.expect_equal(tensor, pattern(size, R * (R + 1) / 2, dtype), "sum of " + what);
      findings.expect(tensor.const_data_ptr() == before, "the sum lies elsewhere");

      tensor = pattern(size, -(group.rank() + 1), dtype);
      group.all_reduce(tensor, Reduce::Max);
      findings.expect_equal(tensor, pattern(size, -1, dtype), "max of " + what);
    }
  }
  auto scalar = at::full({}, group.rank(), at::kLong);
  group.all_reduce(scalar, Reduce::Max);
  findings.expect(scalar.item<std::int64_t>() == R - 1, "a tensor without dimensions");
}

void writes_through_views(Group& group, Findings& findings) {
  for (const std::int64_t size : {6, 30'000}) {
    auto whole = at::ones({size, 4}, at::kFloat);
    auto column = whole.select(1, 2);
    group.all_reduce(column, Reduce::Sum);
    auto expected = at::ones({size, 4}, at::kFloat);
    expected.select(1, 2).fill_(group.size());
    findings.expect_equal(whole, expected, "all_reduce of a column");
  }
  auto turned = rows_of(group.rank(), 3, 5, at::kFloat).t();
  group.broadcast(turned, group.size() - 1);
  findings.expect_equal(turned, rows_of(group.size() - 1, 3, 5, at::kFloat).t(), "broadcast");

  auto gathered = at::zeros({5, 2 * group.size()}, at::kFloat).t();
  group.start_all_gather(gathered, rows_of(group.rank(), 2, 5, at::kFloat)).wait();
  findings.expect_equal(gathered.slice(0, 2 * group.rank(), 2 * group.rank() + 2),
                        rows_of(group.rank(), 2, 5, at::kFloat), "all_gather");
}

void rounds_once(Group& group, Findings& findings) {
  for (const std::int64_t size : {3L, kLarge}) {
    // In bfloat16 256 + 1 is 256 again, so that adding up in it stays at 256.
    auto tensor = at::full({size}, group.rank() == 0 ? 256 : 1, at::kBFloat16);
    group.all_reduce(tensor, Reduce::Sum);
    const auto sum = at::full({size}, 255 + group.size(), at::kFloat).to(at::kBFloat16);
    findings.expect_equal(tensor, sum, "bfloat16");
    auto whole = at::full({size * group.size()}, group.rank() == 0 ? 256 : 1, at::kBFloat16);
    findings.expect_equal(group.reduce_scatter(whole), sum, "bfloat16 reduce_scatter");
  }
}

void all_ranks_hold_the_same_bits(Group& group, Findings& findings) {
  for (const std::int64_t size : {5L, kLarge}) {
    auto tensor = at::arange(size, at::kFloat).add_(1).mul_(0.1 + group.rank() * 1e4).sin_();
    group.all_reduce(tensor, Reduce::Sum);
    const auto all = group.all_gather(tensor.view({1, -1}));
    for (int r = 0; r < group.size(); ++r)
      findings.expect_equal(tensor, all[r], str("rank ", r, ", size ", size));
  }
}

void maximum_keeps_nan(Group& group, Findings& findings) {
  auto tensor = at::full({2}, group.rank() == group.size() - 1 ? std::nan("") : 5.0, at::kFloat);
  group.all_reduce(tensor, Reduce::Max);
  findings.expect(tensor.isnan().all().item<bool>(), "a NaN is lost");
}

void calls_overlap(Group& group, Findings& findings) {
  const std::int64_t R = group.size(), sum = R * (R + 1) / 2;
  std::vector<at::Tensor> tensors;
  std::vector<Pending> pending;
  for (const std::int64_t size : {3L, kLarge, 0L, 1000L, 2 * kLarge}) {
    tensors.push_back(pattern(size, group.rank() + 1, at::kFloat));
    pending.push_back(group.start_all_reduce(tensors.back(), Reduce::Sum));
  }
  auto whole = at::empty({R, 2}, at::kLong);
  auto gather = group.start_all_gather(whole, at::full({1, 2}, group.rank(), at::kLong));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!pending[1].ready() && std::chrono::steady_clock::now() < deadline) {
  }
  findings.expect(pending[1].ready(), "never ready");
  gather.wait();
  for (auto i = pending.size(); i-- > 0;) pending[i].wait();
  for (const auto& tensor : tensors)
    findings.expect_equal(tensor, pattern(tensor.numel(), sum, at::kFloat), "one of several");
  findings.expect_equal(whole.select(1, 1), at::arange(R), "all_gather beside them");
}

void broadcasts_every_dtype(Group& group, Findings& findings) {
  for (const auto dtype : kAll) {
    for (const auto size : kSizes) {
      for (int root = 0; root < group.size(); ++root) {
        auto tensor = rows_of(group.rank(), size, 3, dtype);
        group.broadcast(tensor, root);
        findings.expect_equal(tensor, rows_of(root, size, 3, dtype),
                              str(c10::toString(dtype), " x ", size, " from ", root));
      }
    }
  }
}

void gathers_in_order(Group& group, Findings& findings) {
  for (const auto dtype : kAll) {
    for (const auto size : kSizes) {
      const auto part = rows_of(group.rank(), size, 3, dtype);
      const auto whole = group.all_gather(part);
      auto in_place = at::zeros({size * group.size(), 3}, dtype);
      in_place.narrow(0, size * group.rank(), size).copy_(part);
      group.start_all_gather(in_place, in_place.narrow(0, size * group.rank(), size)).wait();
      for (int r = 0; r < group.size(); ++r) {
        const auto expected = rows_of(r, size, 3, dtype);
        const auto what = str(c10::toString(dtype), " x ", size, " of ", r);
        findings.expect_equal(whole.narrow(0, size * r, size), expected, what);
        findings.expect_equal(in_place.narrow(0, size * r, size), expected, "in place, " + what);
      }
    }
  }
}

void gathers_uneven_parts(Group& group, Findings& findings) {
  std::vector<std::int64_t> rows;
  for (int r = 0; r < group.size(); ++r) rows.push_back(r % 3 == 1 ? 0 : 4 * r + 1);
  const auto own = rows[static_cast<std::size_t>(group.rank())];
  const auto whole = group.all_gather_v(rows_of(group.rank(), own, 2, at::kHalf), rows);
  std::int64_t begin = 0;
  for (int r = 0; r < group.size(); ++r) {
    const auto count = rows[static_cast<std::size_t>(r)];
    findings.expect_equal(whole.narrow(0, begin, count), rows_of(r, count, 2, at::kHalf),
                          str("part ", r));
    begin += count;
  }
  findings.expect(whole.size(0) == begin, "rows");
}

void scatters_sums(Group& group, Findings& findings) {
  const std::int64_t R = group.size();
  for (const auto dtype : kNumbers) {
    for (const auto size : kSizes) {
      // Rank r holds (r + 1) (p + 1) in part p.
      const auto whole =
          ((at::arange(R) + 1) * (group.rank() + 1)).to(dtype).view({R, 1}).repeat({1, size * 2});
      const auto part = group.reduce_scatter(whole.view({R * size, 2}));
      const auto sum = (group.rank() + 1) * R * (R + 1) / 2;
      findings.expect_equal(part, at::full({size, 2}, sum, dtype),
                            str(c10::toString(dtype), " x ", size));
    }
  }
}

/// Rows that rank `from` sends to rank `to`: from none to many, other ones in every direction.
std::int64_t num_rows(std::int64_t from, std::int64_t to, std::int64_t scale) {
  return (from + 2 * to) % 3 * scale;
}

void exchanges_rows(Group& group, Findings& findings) {
  const std::int64_t R = group.size(), self = group.rank();
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kLong}) {
    for (const std::int64_t scale : {0, 1, 7, 500}) {
      std::vector<at::Tensor> outgoing{at::zeros({0, 5}, dtype)}, expected = outgoing;
      std::vector<std::int64_t> input_splits, output_splits;
      for (std::int64_t r = 0; r < R; ++r) {
        input_splits.push_back(num_rows(self, r, scale));
        output_splits.push_back(num_rows(r, self, scale));
        outgoing.push_back(rows_of(self * R + r, input_splits.back(), 5, dtype));
        expected.push_back(rows_of(r * R + self, output_splits.back(), 5, dtype));
      }
      const auto rows = group.all_to_all_v(at::cat(outgoing), input_splits, output_splits);
      findings.expect_equal(rows, at::cat(expected), str(c10::toString(dtype), " x ", scale));
    }
  }
}

void messages_keep_their_order(Group& group, Findings& findings) {
  const int R = group.size();
  if (R == 1) return;
  const int next = (group.rank() + 1) % R, before = (group.rank() + R - 1) % R;
  // All send to their neighbour at once: blocking sends could wait for each other for ever.
  std::deque<at::Tensor> sent;
  std::vector<Pending> pending;
  for (const std::int64_t size : {3L, 0L, 1L, kLarge}) {
    sent.push_back(rows_of(group.rank(), size, 2, at::kFloat));
    pending.push_back(group.start_send(sent.back(), next));
  }
  for (const std::int64_t size : {3L, 0L, 1L, kLarge}) {
    auto tensor = at::zeros({2, size}, at::kFloat).t();
    group.recv(tensor, before);
    findings.expect_equal(tensor, rows_of(before, size, 2, at::kFloat), str("message of ", size));
  }
  for (auto& one : pending) one.wait();

  auto tensor = at::full({4}, group.rank(), at::kBFloat16);  // down a chain, blocking
  if (group.rank() > 0) group.recv(tensor, before);
  tensor.add_(1);
  if (group.rank() < R - 1) group.send(tensor, next);
  findings.expect_equal(tensor, at::full({4}, group.rank() + 1, at::kBFloat16), "chain");
}

void nobody_leaves_a_barrier_early(Group& group, Findings& findings) {
  const auto now = [] { return std::chrono::steady_clock::now().time_since_epoch().count(); };
  for (int late = 0; late < group.size(); ++late) {
    if (late == group.rank()) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    auto came = at::full({}, now(), at::kLong);
    group.barrier();
    const auto left = now();
    group.all_reduce(came, Reduce::Max);
    findings.expect(left >= came.item<std::int64_t>(), str("before rank ", late, " came"));
  }
}

void splits_by_color(Group& group, Findings& findings) {
  const auto parity = group.split(group.rank() % 2, "parity");
  findings.expect(parity->rank() == group.rank() / 2, "rank in the part");
  findings.expect(parity->size() == (group.size() + 1 - group.rank() % 2) / 2, "size of the part");
  findings.expect(parity->name() == "parity", "name of the part");

  const auto alone = parity->split(parity->rank(), "alone");
  findings.expect(alone->size() == 1, "a part of a part");
  auto one = at::ones({3});
  alone->all_reduce(one, Reduce::Sum);
  findings.expect_equal(one, at::ones({3}), "alone");

  // Calls in the part and in the whole, under way together.
  auto small = at::full({5}, group.rank(), at::kLong), large = small.clone();
  auto in_part = parity->start_all_reduce(small, Reduce::Sum);
  auto in_whole = group.start_all_reduce(large, Reduce::Sum);
  in_whole.wait();
  in_part.wait();
  std::int64_t part_sum = 0;
  for (int r = group.rank() % 2; r < group.size(); r += 2) part_sum += r;
  findings.expect_equal(small, at::full({5}, part_sum, at::kLong), "sum over the part");
  const std::int64_t R = group.size();
  findings.expect_equal(large, at::full({5}, R * (R - 1) / 2, at::kLong), "sum over the whole");
}

void mistakes_are_told_before_anything_is_sent(Group& group, Findings& findings) {
  using Mistake = c10::ValueError;
  auto numbers = at::ones({3, 2});
  auto complex = at::zeros({2}, at::kComplexFloat), truth = at::zeros({2}, at::kBool);
  auto scalar = at::ones({});
  const std::vector<std::int64_t> good(static_cast<std::size_t>(group.size()), 0), none;
  findings.expect_throws<Mistake>([&] { group.all_reduce(complex, Reduce::Sum); }, "ComplexFloat");
  findings.expect_throws<Mistake>([&] { group.all_reduce(truth, Reduce::Max); }, "Bool");
  findings.expect_throws<Mistake>([&] { group.broadcast(numbers, group.size()); },
                                  str("there is no rank ", group.size()));
  findings.expect_throws<Mistake>([&] { group.all_gather(scalar); }, "has no rows");
  findings.expect_throws<Mistake>([&] { group.start_all_gather(scalar, numbers).wait(); },
                                  "has no rows");
  auto wrong = at::ones({3 * group.size(), 3});
  findings.expect_throws<Mistake>([&] { group.start_all_gather(wrong, numbers).wait(); },
                                  "a result of shape");
  findings.expect_throws<Mistake>([&] { group.all_gather_v(numbers, good); }, "all_gather_v");
  findings.expect_throws<Mistake>([&] { group.all_to_all_v(numbers, good, good); },
                                  "input splits sum to 0, the tensor has 3 rows");
  findings.expect_throws<Mistake>([&] { group.all_to_all_v(numbers, none, good); },
                                  "0 input splits");
  findings.expect_throws<Mistake>([&] { group.send(numbers, group.rank()); },
                                  "does not message itself");
  findings.expect_throws<Mistake>([&] { group.recv(numbers, -1); }, "there is no rank -1");
  findings.expect_throws<Mistake>([&] { group.split(-1, "part"); }, "color -1");
  if (group.size() > 1) {
    findings.expect_throws<Mistake>([&] { group.reduce_scatter(at::ones({group.size() + 1})); },
                                    "do not divide");
  }
  group.all_reduce(numbers, Reduce::Sum);
  findings.expect_equal(numbers, at::full({3, 2}, group.size(), at::kFloat), "after mistakes");
}

void nothing_is_recorded(Group& group, Findings& findings) {
  auto leaf = at::full({2, 2}, group.rank() + 1, at::kFloat).requires_grad_();
  auto computed = leaf * 2;
  const auto gathered = group.all_gather(computed);
  findings.expect(!gathered.requires_grad(), "all_gather");
  findings.expect(!group.reduce_scatter(gathered).requires_grad(), "reduce_scatter");
  group.broadcast(leaf, 0);
  group.all_reduce(leaf, Reduce::Max);
  findings.expect(leaf.is_leaf() && leaf.requires_grad(), "a parameter stays one");
  findings.expect_equal(leaf.detach(), at::ones({2, 2}), "a parameter");
}

}  // namespace

const std::vector<GroupCase>& group_cases() {
  static const std::vector<GroupCase> cases{
      {"all_reduce gives every rank the exact sum and maximum", reduces_in_place},
      {"views are written through", writes_through_views},
      {"16-bit floats are rounded once", rounds_once},
      {"a sum has the same bits on all ranks", all_ranks_hold_the_same_bits},
      {"a maximum keeps NaN", maximum_keeps_nan},
      {"several calls are under way at once", calls_overlap},
      {"broadcast moves every dtype from every root", broadcasts_every_dtype},
      {"all_gather puts parts in the order of ranks", gathers_in_order},
      {"all_gather_v takes parts of any size", gathers_uneven_parts},
      {"reduce_scatter gives every rank its part of the sum", scatters_sums},
      {"all_to_all_v moves every row to its rank", exchanges_rows},
      {"messages arrive in the order they were sent in", messages_keep_their_order},
      {"nobody leaves a barrier before all have come", nobody_leaves_a_barrier_early},
      {"split makes groups by color", splits_by_color},
      {"mistakes are told before anything is sent", mistakes_are_told_before_anything_is_sent},
      {"autograd records nothing", nothing_is_recorded},
  };
  return cases;
}

}  // namespace tailor::distributed
