// A prompt computed once for all its completions, through whole models with their adapters.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <memory>

#include "models/families/causal_lm.hpp"
#include "models/prompt_group.hpp"
#include "peft/lora.hpp"

using namespace tailor;

namespace {

/// A tiny model with an adapter of random factors on all its linears, experts included.
struct Setting {
  explicit Setting(const std::string& name)
      : model(models::load_causal_lm(
            models::open_pretrained(std::filesystem::path(TAILOR_GOLDEN) / name), at::kFloat,
            models::kernels::Arithmetic::Float32)),
        adapter(*model, {.r = 4, .lora_alpha = 8.0}, /*seed=*/0) {
    at::manual_seed(0);
    for (const auto& factor : adapter.trainables())
      factor.value.data().copy_(at::randn(factor.value.sizes()) * 0.1);
  }

  struct Pass {
    at::Tensor hidden_TD;
    std::vector<at::Tensor> gradients;  // of every factor
  };
  /// Forward, and backward from `dhidden` of the rows.
  Pass pass(const models::Batch& batch, const at::Tensor& dhidden_TD) {
    for (const auto& factor : adapter.trainables()) factor.value.mutable_grad() = at::Tensor();
    const auto hidden_TD = model->hidden_states(batch);
    hidden_TD.backward(dhidden_TD);
    Pass out{hidden_TD.detach(), {}};
    for (const auto& factor : adapter.trainables()) out.gradients.push_back(factor.value.grad());
    return out;
  }

  std::unique_ptr<models::CausalLM> model;
  peft::LoraAdapter adapter;
};

std::vector<std::int64_t> ids(std::int64_t length, std::int64_t vocab_size) {
  const auto x = at::randint(vocab_size, {length}, at::kLong);
  return {x.const_data_ptr<std::int64_t>(), x.const_data_ptr<std::int64_t>() + length};
}

}  // namespace

TEST_CASE("completions of a shared prompt give what prompt and completion give together",
          "[trainer]") {
  const auto name = GENERATE(as<std::string>(), "tiny_llama", "tiny_deepseek_v3", "tiny_qwen3_moe");
  CAPTURE(name);
  Setting setting(name);
  const auto vocab_size = setting.model->shape().vocab_size;
  const auto hidden_size = setting.model->shape().hidden_size;
  std::vector<models::PromptGroup> groups{{ids(11, vocab_size), {}}, {ids(3, vocab_size), {}}};
  for (const auto length : {5, 0, 7, 1}) groups[0].completions.push_back(ids(length, vocab_size));
  for (const auto length : {2, 4}) groups[1].completions.push_back(ids(length, vocab_size));

  const auto shared = models::pack_with_prefixes(groups);
  std::vector<std::vector<std::int64_t>> documents;
  std::vector<at::Tensor> rows;  // of the shared batch, for every token of the separate documents
  std::size_t d = 0;
  const auto rows_of = [&](std::size_t document) {
    return at::arange(shared.document_offsets[document], shared.document_offsets[document + 1],
                      at::kLong);
  };
  for (const auto& group : groups) {
    const auto prompt = d++;
    for (const auto& completion : group.completions) {
      documents.push_back(group.prompt);
      documents.back().insert(documents.back().end(), completion.begin(), completion.end());
      rows.push_back(rows_of(prompt));
      rows.push_back(rows_of(d++));
    }
  }
  const auto separate = models::pack(documents);
  const auto row_T = at::cat(rows);
  REQUIRE(row_T.numel() == separate.num_tokens());
  CHECK(at::equal(shared.positions_T.index_select(0, row_T), separate.positions_T));

  // A prompt's row has the gradients of all its copies.
  const auto dseparate_TD = at::randn({separate.num_tokens(), hidden_size});
  const auto dshared_TD =
      at::zeros({shared.num_tokens(), hidden_size}).index_add(0, row_T, dseparate_TD);
  const auto once = setting.pass(shared, dshared_TD);
  const auto copies = setting.pass(separate, dseparate_TD);
  const auto apart = (once.hidden_TD.index_select(0, row_T) - copies.hidden_TD).abs().max();
  CHECK(apart.item<double>() < 1e-5 * copies.hidden_TD.abs().max().item<double>());
  REQUIRE(once.gradients.size() == copies.gradients.size());
  for (std::size_t i = 0; i < once.gradients.size(); ++i) {
    CAPTURE(setting.adapter.trainables()[i].keys.front());
    const auto scale = copies.gradients[i].abs().max().item<double>();
    CHECK(scale > 0.0);
    CHECK((once.gradients[i] - copies.gradients[i]).abs().max().item<double>() < 1e-5 * scale);
  }
}
