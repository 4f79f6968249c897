#include "peft/gguf_adapter.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>

#include <catch2/catch.hpp>
#include <cmath>

#include "models/files/gguf.hpp"

using namespace tailor;
namespace fs = std::filesystem;

namespace {

constexpr std::int64_t kWidth = 8, kRank = 2;

/// Factors of the modules, two key-value heads of four features, by a plain configuration.
peft::AdapterFiles adapter(const std::vector<std::string>& paths) {
  peft::AdapterFiles files;
  files.config = {.r = kRank, .lora_alpha = 6.0};
  files.config.target_modules = paths;
  files.config.target_is_pattern = false;
  files.file = "adapter_model.safetensors";
  for (const auto& path : paths) {
    files.factors[peft::factor_key(path, 'A')] = at::randn({kRank, kWidth});
    files.factors[peft::factor_key(path, 'B')] = at::randn({kWidth, kRank});
  }
  return files;
}

struct Written {
  fs::path path;
  std::shared_ptr<const models::GgufFile> file;

  Written(const peft::AdapterFiles& files, const peft::GgufBase& base) {
    auto name = (fs::temp_directory_path() / "tailor_gguf_XXXXXX").string();
    path = mkdtemp(name.data());
    peft::write_gguf_adapter(files, base, path / "a.gguf");
    file = models::open_gguf(path / "a.gguf");
  }
  ~Written() { fs::remove_all(path); }

  at::Tensor read(const std::string& name) const { return file->read(name, at::kFloat); }
  std::string text(const std::string& key) const {
    return std::get<std::string>(file->header().metadata.at(key).value);
  }
};

const std::string kQ = "model.layers.3.self_attn.q_proj", kK = "model.layers.3.self_attn.k_proj",
                  kO = "model.layers.0.self_attn.o_proj", kDown = "model.layers.0.mlp.down_proj";

}  // namespace

TEST_CASE("a GGUF adapter has llama.cpp's metadata, names and factors", "[peft]") {
  const auto files = adapter({kO, kDown});
  const Written written(files, {"qwen2", 4, 2});
  CHECK(written.text("general.type") == "adapter");
  CHECK(written.text("general.architecture") == "qwen2");
  CHECK(written.text("adapter.type") == "lora");
  CHECK(std::get<double>(written.file->header().metadata.at("adapter.lora.alpha").value) == 6.0);
  CHECK(written.file->header().tensors.size() == 4);
  CHECK(at::equal(written.read("blk.0.attn_output.weight.lora_a"),
                  files.factors.at(peft::factor_key(kO, 'A'))));
  CHECK(at::equal(written.read("blk.0.ffn_down.weight.lora_b"),
                  files.factors.at(peft::factor_key(kDown, 'B'))));
}

TEST_CASE("rows of q and k are permuted for llama alone, as its weights are", "[peft]") {
  const auto files = adapter({kQ, kK, kO});
  const Written llama(files, {"llama", 1, 2}), qwen(files, {"qwen3", 1, 2});
  const auto B = [&](const std::string& path) {
    return files.factors.at(peft::factor_key(path, 'B'));
  };
  const auto rows = [](std::initializer_list<std::int64_t> order) {
    return at::tensor(std::vector<std::int64_t>(order), at::kLong);
  };
  // A head's feature i and its partner i + half, which rotate together, become neighbours.
  CHECK(at::equal(llama.read("blk.3.attn_q.weight.lora_b"),
                  B(kQ).index_select(0, rows({0, 4, 1, 5, 2, 6, 3, 7}))));
  CHECK(at::equal(llama.read("blk.3.attn_k.weight.lora_b"),
                  B(kK).index_select(0, rows({0, 2, 1, 3, 4, 6, 5, 7}))));
  CHECK(at::equal(llama.read("blk.0.attn_output.weight.lora_b"), B(kO)));
  CHECK(at::equal(llama.read("blk.3.attn_q.weight.lora_a"),
                  files.factors.at(peft::factor_key(kQ, 'A'))));
  CHECK(at::equal(qwen.read("blk.3.attn_q.weight.lora_b"), B(kQ)));
}

TEST_CASE("scales that differ from alpha / rank go into lora_b", "[peft]") {
  auto files = adapter({kO, kDown});
  const auto check = [&](double scale_o, double scale_down) {
    const Written written(files, {"qwen2", 4, 2});
    const auto alpha =
        std::get<double>(written.file->header().metadata.at("adapter.lora.alpha").value);
    const auto theirs = alpha / kRank;
    for (const auto& [path, name, scale] : {std::tuple{kO, "blk.0.attn_output", scale_o},
                                            std::tuple{kDown, "blk.0.ffn_down", scale_down}})
      CHECK(at::allclose(theirs * written.read(std::string(name) + ".weight.lora_b"),
                         scale * files.factors.at(peft::factor_key(path, 'B')), 1e-5, 1e-7));
  };
  SECTION("rsLoRA") {
    files.config.use_rslora = true;
    check(6.0 / std::sqrt(2.0), 6.0 / std::sqrt(2.0));
  }
  SECTION("alpha_pattern") {
    files.config.alpha_pattern = {{"down_proj", 1.0}};
    check(3.0, 0.5);
  }
  SECTION("alpha zero, which llama.cpp takes for no scale at all") {
    files.config.lora_alpha = 0.0;
    check(0.0, 0.0);
  }
}

TEST_CASE("a module without a name in the format is refused", "[peft]") {
  const auto path = GENERATE(as<std::string>(), "model.layers.0.mlp.experts.3.up_proj",
                             "model.layers.x.mlp.up_proj", "model.embed_tokens");
  CHECK_THROWS_WITH(Written(adapter({path}), {"llama", 4, 2}),
                    Catch::Contains(path + " has no name in GGUF"));
}

TEST_CASE("a base whose heads do not fit is refused", "[peft]") {
  CHECK_THROWS_AS(Written(adapter({kQ}), {"llama", 3, 3}), models::FileError);
}

TEST_CASE("the base's words come from config.json", "[peft]") {
  const auto base = peft::read_gguf_base(
      R"({"model_type": "llama", "num_attention_heads": 9, "num_key_value_heads": 3, "x": 1})",
      "c");
  CHECK(base.architecture == "llama");
  CHECK(base.num_attention_heads == 9);
  CHECK(base.num_key_value_heads == 3);
  CHECK_THROWS_AS(peft::read_gguf_base(R"({"model_type": "other"})", "c"), configs::ConfigError);
}
