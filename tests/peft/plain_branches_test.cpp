// The branches of experts as they are computed on devices, in host memory, against those there.
#include "peft/plain_branches.hpp"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros_like.h>

#include <catch2/catch.hpp>
#include <vector>

namespace tailor::peft {
namespace {

struct Results {
  std::vector<at::Tensor> y, gradients;
  at::Tensor h, dh, dx;
};

struct Ways {
  decltype(add_branches_)* add;
  decltype(lower_branches_)* lower;
  decltype(add_sums_)* sum;
};

Results run(const Ways& ways, const at::Tensor& x, const std::vector<std::int64_t>& offsets,
            const std::vector<Branch>& branches, const std::vector<at::Tensor>& y,
            const std::vector<at::Tensor>& dy) {
  Results out;
  for (const auto& one : y) out.y.push_back(one.clone());
  std::int64_t ranks = 0;
  for (const auto& branch : branches) ranks += branch.rank();
  out.h = at::empty({x.size(0), ranks}, at::kFloat);
  out.dh = at::zeros_like(out.h);
  out.dx = x.clone();  // something to add to
  ways.add(x, offsets, branches, out.h, out.y);
  ways.lower(offsets, branches, dy, out.dh, out.dx);
  std::vector<FactorSum> sums;
  for (std::size_t i = 0; i < branches.size(); ++i) {
    const auto& [A, B, scale, begin] = branches[i];
    out.gradients.push_back(at::zeros_like(A));
    sums.push_back({out.gradients.back(), true, out.dh, begin, x, 1.0});
    out.gradients.push_back(at::zeros_like(B));
    sums.push_back({out.gradients.back(), false, out.h, begin, dy[i], scale});
  }
  ways.sum(offsets, sums);
  return out;
}

}  // namespace

TEST_CASE("branches of experts on any device equal those in host memory", "[peft]") {
  at::manual_seed(0);
  const auto dtype = GENERATE(at::kFloat, at::kBFloat16);
  const std::int64_t rank = GENERATE(1, 3, 8);  // 8: all experts in one product
  const bool shared = GENERATE(false, true);
  CAPTURE(c10::toString(dtype), rank, shared);
  const std::vector<std::int64_t> offsets{0, 4, 4, 30, 37};
  const auto x = at::randn({37, 16}).to(dtype);
  const auto factor = [&](std::int64_t rows, std::int64_t columns, bool one) {
    return one ? at::randn({rows, columns}) / 4 : at::randn({4, rows, columns}) / 4;
  };
  const std::vector<Branch> branches{
      {factor(rank, 16, shared), factor(24, rank, false), 0.5, 0},
      {factor(rank, 16, false), factor(32, rank, shared), 2.0, rank}};
  const std::vector<at::Tensor> y{at::randn({37, 24}).to(dtype), at::randn({37, 32}).to(dtype)};
  const std::vector<at::Tensor> dy{at::randn({37, 24}).to(dtype), at::randn({37, 32}).to(dtype)};
  const auto host = run({add_branches_, lower_branches_, add_sums_}, x, offsets, branches, y, dy);
  const auto other = run({plain::add_branches_, plain::lower_branches_, plain::add_sums_}, x,
                         offsets, branches, y, dy);
  // bfloat16 that is multiplied in bfloat16 differs by roundings, which cancelling sums keep.
  const double tolerance = dtype == at::kFloat ? 1e-5 : 1e-2;
  const auto close = [&](const at::Tensor& a, const at::Tensor& b) {
    const auto exact = b.to(at::kDouble);
    return (a.to(at::kDouble) - exact).norm().item<double>() <=
           tolerance * exact.norm().item<double>();
  };
  for (std::size_t i = 0; i < y.size(); ++i) CHECK(close(other.y[i], host.y[i]));
  for (std::size_t i = 0; i < host.gradients.size(); ++i)
    CHECK(close(other.gradients[i], host.gradients[i]));
  CHECK(close(other.h, host.h));
  CHECK(close(other.dh, host.dh));
  CHECK(close(other.dx, host.dx));
}

}  // namespace tailor::peft
