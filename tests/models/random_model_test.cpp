#include "models/families/random_model.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "configs/reader.hpp"
#include "models/families/causal_lm.hpp"
#include "models/files/mapped_file.hpp"
#include "models/text/chat.hpp"

using namespace tailor;
using Catch::Matchers::Contains;
using models::kernels::Arithmetic;

namespace {

namespace fs = std::filesystem;

models::Pretrained random_model(const std::string& family, std::uint64_t seed) {
  const auto file = std::string(TAILOR_GOLDEN) + '/' + family + "/config.json";
  return models::random_pretrained(models::read_text_file(file), file, seed);
}

at::Tensor weight(const models::Pretrained& model, const std::string& name) {
  return model.tensors->read(name, at::kFloat);
}

at::Tensor logits(const models::Pretrained& pretrained) {
  const auto model = models::load_causal_lm(pretrained, at::kFloat, Arithmetic::Float32);
  const models::Batch batch{at::arange(20, at::kLong), at::arange(20, at::kLong), {0, 20}};
  return model->lm_head()(model->hidden_states(batch));
}

}  // namespace

TEST_CASE("a random model is its seed's and is written as it is", "[models]") {
  const at::NoGradGuard no_grad;
  const std::string family =
      GENERATE("tiny_llama", "tiny_qwen2", "tiny_qwen3", "tiny_mixtral", "tiny_qwen2_moe");
  CAPTURE(family);
  const auto model = random_model(family, 1);
  CHECK(at::equal(logits(model), logits(random_model(family, 1))));
  CHECK_FALSE(at::equal(logits(model), logits(random_model(family, 2))));

  const auto folder = fs::temp_directory_path() / ("tailor_random_" + std::to_string(getpid()));
  models::write_hf_directory(model, folder, at::kFloat);
  const auto read = models::open_pretrained(folder);
  CHECK(at::equal(logits(read), logits(model)));
  const std::string text = "a b\xC3\xA9<|im_end|>\n";
  const auto ids = read.tokenizer->encode(text);
  CHECK(ids == std::vector<std::int64_t>{97, 32, 98, 0xC3, 0xA9, 258, 10});
  CHECK(read.tokenizer->decode(ids) == text);
  const auto chat = models::text::make_chat_template(read.chat_template, read.tokenizer, "model");
  CHECK(chat->render({{"user", "hi"}}, true) ==
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
  CHECK(read.generation.eos_token_id == std::vector<std::int64_t>{258});
  fs::remove_all(folder);
}

TEST_CASE("random matrices have the configured deviation, norms are 1, biases 0", "[models]") {
  const auto model = random_model("tiny_qwen2", 0);
  CHECK(weight(model, "model.embed_tokens.weight").std().item<double>() ==
        Approx(0.02).epsilon(0.05));
  CHECK(weight(model, "model.layers.0.input_layernorm.weight").eq(1).all().item<bool>());
  CHECK(weight(model, "model.norm.weight").eq(1).all().item<bool>());
  CHECK(weight(model, "model.layers.0.self_attn.q_proj.bias").eq(0).all().item<bool>());
}

TEST_CASE("sizes that no model can have are refused", "[models]") {
  const auto problem = [](const std::string& family, const nlohmann::json& sizes) {
    const auto file = std::string(TAILOR_GOLDEN) + '/' + family + "/config.json";
    auto config = nlohmann::json::parse(models::read_text_file(file));
    config.update(sizes);
    try {
      models::random_pretrained(config.dump(), file, 0);
    } catch (const configs::ConfigError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK_THAT(problem("tiny_llama", {{"vocab_size", 258}}),
             Contains("vocab_size") && Contains("259"));
  CHECK(problem("tiny_llama", {{"vocab_size", 259}}).empty());
  constexpr std::int64_t kMost = 1 << 24;
  CHECK_THAT(problem("tiny_llama", {{"num_hidden_layers", 10000},
                                    {"hidden_size", kMost},
                                    {"intermediate_size", kMost},
                                    {"vocab_size", kMost}}),
             Contains("config.json: describes 8"));
  CHECK_THAT(problem("tiny_mixtral", {{"num_hidden_layers", 10000}, {"num_local_experts", 105}}),
             Contains("num_local_experts: expected at most 1048576 experts in all layers"));
}
