#include "trainer/bench/gemm.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>

#include <algorithm>
#include <atomic>

#include "models/kernels/add_product.hpp"
#include "trainer/bench/clock.hpp"

namespace tailor::trainer {
namespace {

struct Shape {
  std::int64_t tokens, in, out;
};
constexpr Shape kShapes[] = {
    {512, 576, 1536}, {512, 1536, 576}, {2048, 576, 1536}, {2048, 1536, 576}, {2048, 2048, 2048}};

}  // namespace

std::vector<GemmSpeed> measure_gemm(models::kernels::Arithmetic arithmetic) {
  const auto dtype = models::kernels::activation_dtype(arithmetic);
  std::vector<GemmSpeed> out;
  for (const auto& shape : kShapes) {
    const auto tokens = shape.tokens, in = shape.in, features = shape.out;
    const auto x = at::randn({tokens, in}, dtype), w = at::randn({features, in}, dtype);
    const auto flop = 2.0 * static_cast<double>(tokens * in * features);
    const auto add = [&](bool tiled, const auto& product) {
      out.push_back({tokens, in, features, tiled, flop / median_seconds(product) * 1e-9});
    };
    add(false, [&] { at::linear(x, w); });
    if (arithmetic != models::kernels::Arithmetic::Float32) continue;
    auto y = at::empty({tokens, features});
    const auto a = models::kernels::view_of(x), b = models::kernels::view_of(w.t());
    add(true, [&] {
      models::kernels::tiled_gemm(tokens, features, in, 1.0F, a, b, 0.0F, y.data_ptr<float>(),
                                  features);
    });
  }
  return out;
}

double peak_gflops(const std::vector<GemmSpeed>& speeds) {
  double best = 0.0;
  for (const auto& speed : speeds) best = std::max(best, speed.gflops);
  return best;
}

double measure_read_bandwidth() {
  constexpr std::int64_t kBytes = std::int64_t{1} << 30;
  const auto block = at::ones({kBytes / 8}, at::kLong);
  const auto* words = block.const_data_ptr<std::int64_t>();
  std::atomic<std::int64_t> total = 0;
  const auto seconds = median_seconds([&] {
    at::parallel_for(0, kBytes / 8, kBytes / 8 / at::get_num_threads(),
                     [&](std::int64_t begin, std::int64_t end) {
                       std::int64_t sum = 0;
                       for (auto i = begin; i < end; ++i) sum += words[i];
                       total += sum;
                     });
  });
  return static_cast<double>(kBytes) / seconds;
}

}  // namespace tailor::trainer
