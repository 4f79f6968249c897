#include "trainer/plan/architecture.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <string>

#include "configs/reader.hpp"

namespace tailor::trainer::plan {
namespace {

const std::string kQwen3Moe = R"({"model_type": "qwen3_moe", "hidden_size": 64,
  "num_hidden_layers": 6, "vocab_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
  "intermediate_size": 80, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24)";

std::string error_of(const std::string& text) {
  try {
    parse_architecture(text, "config.json");
  } catch (const configs::ConfigError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("sparse layers are the published ones") {
  const auto a = parse_architecture(
      kQwen3Moe + R"(, "decoder_sparse_step": 2, "mlp_only_layers": [3]})", "config.json");
  CHECK(a.sparse == std::vector<bool>{false, true, false, false, false, true});
  CHECK(a.intermediate_size == 80);
  CHECK(a.head_dim == 16);
  const auto all = parse_architecture(kQwen3Moe + "}", "config.json");
  CHECK(std::count(all.sparse.begin(), all.sparse.end(), true) == 6);
}

TEST_CASE("fields that no count depends on are not looked at") {
  CHECK(error_of(kQwen3Moe + R"(, "rope_theta": 1e6, "some_new_field": {"a": [1]}})").empty());
}

TEST_CASE("the name is the file's, or its folder's, or what the configuration says") {
  CHECK(parse_architecture(kQwen3Moe + "}", "models/tiny/config.json").name == "tiny");
  CHECK(parse_architecture(kQwen3Moe + "}", "models/tiny.json").name == "tiny");
  CHECK(parse_architecture(kQwen3Moe + R"(, "_name_or_path": "me/tiny"})", "x.json").name ==
        "me/tiny");
}

TEST_CASE("a configuration that is wrong is told with file and field") {
  CHECK(error_of(R"({"model_type": "gpt2"})").starts_with("config.json: model_type: expected"));
  CHECK(error_of(R"({"model_type": "llama"})").find("hidden_size") != std::string::npos);
  CHECK(error_of(kQwen3Moe + R"(, "num_experts": 8})").find("num_experts") != std::string::npos);
  const auto error = error_of(R"({"model_type": "mixtral", "hidden_size": 64,
    "num_hidden_layers": 2, "vocab_size": 96, "num_attention_heads": 4, "intermediate_size": 80,
    "num_local_experts": 4, "num_experts_per_tok": 5})");
  CHECK(error.find("num_experts_per_tok: expected at most num_local_experts = 4, found \"5\"") !=
        std::string::npos);
  CHECK(error_of(R"({"model_type": "llama", "hidden_size": 16777216, "num_hidden_layers": 10000,
    "vocab_size": 16777216, "num_attention_heads": 16, "intermediate_size": 16777216})")
            .starts_with("config.json: describes more than 1e15 parameters"));
  CHECK_THROWS_AS(read_architecture("/nowhere/config.json"), configs::ConfigError);
  CHECK_THROWS_AS(read_architecture(TAILOR_GOLDEN), configs::ConfigError);
}

}  // namespace tailor::trainer::plan
