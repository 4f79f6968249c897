#include "models/generation/softmax_sums.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include "models/kernels/lanes.hpp"

namespace tailor::models {
namespace {

using kernels::Isa;
using kernels::Lanes;

struct Row {
  const float* x;
  std::size_t size;
  float largest, scale;
  float* sums;
};

template <int kLanes>
[[gnu::always_inline]] inline void chunk_sums(const Row& row) {
  for (std::size_t begin = 0; begin < row.size; begin += kSumChunk) {
    const auto end = std::min(begin + kSumChunk, row.size);
    Lanes<kLanes> total{};
    for (auto i = begin; i < end; i += kLanes) {
      Lanes<kLanes> x = Lanes<kLanes>{} + row.largest;
      const auto count = std::min<std::size_t>(kLanes, end - i);
      if (count == kLanes) {
        kernels::load<kLanes>(row.x + i, x);
      } else {
        x = x - std::numeric_limits<float>::infinity();  // beyond the end: adds 0
        std::memcpy(&x, row.x + i, count * sizeof(float));
      }
      x = (x - row.largest) * row.scale;
      kernels::exp_negative<kLanes>(x);
      total += x;
    }
    row.sums[begin / kSumChunk] = kernels::sum<kLanes>(total);
  }
}

template <int kLanes>
[[gnu::always_inline]] inline float lanes_largest(std::span<const float> x) {
  auto largest = -std::numeric_limits<float>::infinity();
  const auto whole = x.size() - x.size() % kLanes;
  if (whole > 0) {
    Lanes<kLanes> most;
    kernels::load<kLanes>(x.data(), most);
    for (std::size_t i = kLanes; i < whole; i += kLanes) {
      Lanes<kLanes> next;
      kernels::load<kLanes>(x.data() + i, next);
      most = next > most ? next : most;
    }
    for (int k = 0; k < kLanes; ++k) largest = std::max(largest, most[k]);
  }
  for (auto i = whole; i < x.size(); ++i) largest = std::max(largest, x[i]);
  return largest;
}

void portable(const Row& row) { chunk_sums<4>(row); }
[[gnu::target("avx2,fma")]] void avx2(const Row& row) { chunk_sums<8>(row); }
[[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")]] void avx512(
    const Row& row) {
  chunk_sums<16>(row);
}

float portable_largest(std::span<const float> x) { return lanes_largest<4>(x); }
[[gnu::target("avx2,fma")]] float avx2_largest(std::span<const float> x) {
  return lanes_largest<8>(x);
}
[[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")]] float avx512_largest(
    std::span<const float> x) {
  return lanes_largest<16>(x);
}

}  // namespace

float largest_of(std::span<const float> x, Isa isa) {
  if (isa == Isa::Portable) return portable_largest(x);
  return isa == Isa::Avx2 ? avx2_largest(x) : avx512_largest(x);
}

std::vector<float> softmax_sums(std::span<const float> x, float largest, double temperature,
                                Isa isa) {
  std::vector<float> sums((x.size() + kSumChunk - 1) / kSumChunk);
  const Row row{x.data(), x.size(), largest, static_cast<float>(1.0 / temperature), sums.data()};
  if (isa == Isa::Portable)
    portable(row);
  else if (isa == Isa::Avx2)
    avx2(row);
  else
    avx512(row);
  return sums;
}

}  // namespace tailor::models
