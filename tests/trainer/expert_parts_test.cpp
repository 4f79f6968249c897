// What experts on several ranks answer a rank does not depend on the tokens of the others.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>

#include <catch2/catch.hpp>

#include "models/batch.hpp"
#include "models/files/pretrained.hpp"
#include "tests/support/on_ranks.hpp"
#include "trainer/parallel/spread_model.hpp"

namespace tailor::trainer {
namespace {

using distributed::Group;
using models::kernels::Arithmetic;

/// Documents of 50 tokens, others on every rank.
models::Batch documents(std::int64_t count, std::int64_t rank) {
  std::vector<std::vector<std::int64_t>> out;
  for (std::int64_t d = 0; d < count; ++d) {
    auto& ids = out.emplace_back();
    for (std::int64_t t = 0; t < 50; ++t) ids.push_back((rank * 37 + d * 31 + t * t * 3) % 90);
  }
  return models::pack(out);
}

at::Tensor hidden_states(const models::Pretrained& base, Arithmetic arithmetic, Group& world,
                         const models::Batch& batch) {
  const auto mesh = distributed::make_mesh(world, {.ep = world.size()});
  const auto model = models::make_causal_lm(base.config_json, base.config_file);
  const auto take = spread_model(*model, mesh);
  const auto dtype = arithmetic == Arithmetic::Float32 ? at::kFloat : at::kBFloat16;
  models::load_parameters(*model, base, dtype, arithmetic, take);
  const at::NoGradGuard no_grad;
  return model->hidden_states(batch);
}

}  // namespace

TEST_CASE(
    "without gradient a rank's hidden states are those of one rank with its tokens, bit by bit") {
  const auto* family = GENERATE("tiny_mixtral", "tiny_qwen3_moe", "tiny_deepseek_v3");
  const auto arithmetic = GENERATE(Arithmetic::Float32, Arithmetic::BFloat16);
  if (arithmetic == Arithmetic::BFloat16 && !models::kernels::has_bf16_products()) return;
  // An expert's rows: few on each rank and together, few on each rank alone, many on each
  const auto count = GENERATE(1, 3, 12);
  CAPTURE(family, count, static_cast<int>(arithmetic));
  const auto base = models::open_pretrained(std::string(TAILOR_GOLDEN) + '/' + family);
  const auto found = distributed::on_ranks(2, [&](Group& world) {
    return hidden_states(base, arithmetic, world, documents(count, world.rank()));
  });
  for (std::int64_t rank = 0; rank < 2; ++rank) {
    const auto alone = distributed::on_ranks(1, [&](Group& world) {
      return hidden_states(base, arithmetic, world, documents(count, rank));
    });
    CHECK(at::equal(found[static_cast<std::size_t>(rank)], alone.front()));
  }
}

}  // namespace tailor::trainer
