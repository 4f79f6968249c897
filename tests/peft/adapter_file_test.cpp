#include "peft/adapter_file.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>

#include "models/files/safetensors.hpp"
#include "tests/peft/toy_model.hpp"

using namespace tailor;
using configs::ConfigError;
using models::FileError;
using peft::LoraAdapter;
using peft::LoraConfig;
using tests::ToyModel;
using Json = nlohmann::json;
namespace fs = std::filesystem;

namespace {

struct Folder {
  fs::path path;
  Folder() {
    auto name = (fs::temp_directory_path() / "tailor_adapter_XXXXXX").string();
    path = mkdtemp(name.data());
  }
  ~Folder() { fs::remove_all(path); }
};

Json read_json(const fs::path& file) { return Json::parse(std::ifstream(file)); }
void write_json(const fs::path& file, const Json& json) { std::ofstream(file) << json; }

LoraConfig targets(std::vector<std::string> names) {
  LoraConfig config{.r = 2, .lora_alpha = 3.0, .init_lora_weights = peft::InitLora::Random};
  config.target_modules = std::move(names);
  config.target_is_pattern = false;
  return config;
}

using Tensors = std::vector<std::pair<std::string, at::Tensor>>;

/// Factors of q_proj of both layers of the toy model.
Tensors q_factors() {
  Tensors tensors;
  for (const std::string layer : {"0", "1"}) {
    const auto path = "base_model.model.model.layers." + layer + ".q_proj";
    tensors.emplace_back(path + ".lora_A.weight", at::randn({2, 8}));
    tensors.emplace_back(path + ".lora_B.weight", at::randn({8, 2}));
  }
  return tensors;
}

void write_folder(const Folder& folder, const Tensors& tensors, const Json& changes = {}) {
  Json config{{"peft_type", "LORA"}, {"r", 2}, {"lora_alpha", 4}, {"target_modules", {"q_proj"}}};
  config.update(changes.is_null() ? Json::object() : changes);
  models::write_safetensors(folder.path / "adapter_model.safetensors", tensors, {});
  write_json(folder.path / "adapter_config.json", config);
}

/// What the folder says when it is read and seated.
std::unique_ptr<LoraAdapter> seat(ToyModel& model, const fs::path& adapter) {
  const auto files = peft::read_adapter(adapter);
  auto seated = std::make_unique<LoraAdapter>(model, files.config, 0, adapter.string());
  peft::load_factors(files, *seated);
  return seated;
}

}  // namespace

TEST_CASE("an adapter that is written and read back computes the same", "[peft]") {
  const auto names = GENERATE(std::vector<std::string>{"q_proj", "v_proj"},
                              std::vector<std::string>{"model.layers.1.q_proj", "k_proj"});
  auto config = targets(names);
  config.use_rslora = GENERATE(true, false);
  config.rank_pattern = {{R"(layers\.1\.q_proj)", 3.0}};
  config.alpha_pattern = {{"k_proj", 0.7}};
  ToyModel model(at::kFloat), again(at::kFloat);
  const LoraAdapter adapter(model, config, 1);
  const Folder folder;
  peft::write_adapter(adapter, "some/model", folder.path / "a");
  CHECK_FALSE(fs::exists(folder.path / "a" / "adapter_config.json.tmp"));

  const auto place = GENERATE("a", "a/adapter_model.safetensors", "a/adapter_config.json");
  const auto read = seat(again, folder.path / place);
  const auto x = at::randn({3, 8});
  CHECK(at::equal(model.run(x), again.run(x)));
  CHECK(peft::read_adapter(folder.path / place).base_model_name_or_path == "some/model");
  REQUIRE(read->layers().size() == adapter.layers().size());
  for (std::size_t i = 0; i < read->layers().size(); ++i)
    CHECK(read->layers()[i]->scale() == adapter.layers()[i]->scale());
}

TEST_CASE("the written configuration names exactly the adapted modules", "[peft]") {
  ToyModel model(at::kFloat);
  LoraConfig config{.r = 2};
  config.exclude_modules = {"model.layers.0.v_proj", "k_proj"};
  const LoraAdapter adapter(model, config, 1);
  const Folder folder;
  peft::write_adapter(adapter, "m", folder.path);
  const auto json = read_json(folder.path / "adapter_config.json");
  CHECK(json.at("target_modules") == Json{"model.layers.1.v_proj", "q_proj"});
  CHECK(json.at("exclude_modules").is_null());
  CHECK(json.at("r") == 2);
  CHECK(json.at("lora_alpha").is_number_integer());
  CHECK(json.at("peft_type") == "LORA");
  CHECK(json.at("task_type") == "CAUSAL_LM");
  CHECK(json.at("peft_version") == "0.19.1");
  CHECK(json.at("inference_mode") == true);
  const auto file = models::open_safetensors(folder.path / "adapter_model.safetensors");
  CHECK(file->metadata().at("format") == "pt");
  CHECK(file->contains("base_model.model.model.layers.1.v_proj.lora_B.weight"));
}

TEST_CASE("names of an adapter inside keys and half precision are read", "[peft]") {
  const auto dtype = GENERATE(at::kHalf, at::kBFloat16);
  auto tensors = q_factors();
  for (auto& [key, factor] : tensors) {
    key.insert(key.size() - std::string(".weight").size(), ".default");
    factor = factor.to(dtype);
  }
  const Folder folder;
  write_folder(folder, tensors);
  ToyModel model(at::kFloat);
  const auto adapter = seat(model, folder.path);
  CHECK(at::equal(adapter->layers()[0]->A(), tensors[0].second.to(at::kFloat)));
  CHECK(at::equal(adapter->layers()[1]->B(), tensors[3].second.to(at::kFloat)));
}

TEST_CASE("an expression of Python's and selection by layer follow the keys", "[peft]") {
  const Json changes = GENERATE(Json{{"target_modules", ".*(?<!k)(?<!v)_proj"}},
                                Json{{"layers_to_transform", {0, 1}}},
                                Json{{"target_modules", {"q_proj", "query_key_value"}}});
  const Folder folder;
  write_folder(folder, q_factors(), changes);
  ToyModel model(at::kFloat);
  CHECK(seat(model, folder.path)->layers().size() == 2);
}

TEST_CASE("a run directory gives its final adapter", "[peft]") {
  const Folder folder, run;
  write_folder(folder, q_factors());
  fs::copy(folder.path, run.path / "adapter");
  CHECK(peft::read_adapter(run.path).factors.size() == 4);
}

TEST_CASE("what would change the function is refused by name", "[peft]") {
  const auto [changes, text] = GENERATE(table<Json, std::string>({
      {Json{{"use_dora", true}}, "use_dora"},
      {Json{{"bias", "all"}}, "bias"},
      {Json{{"modules_to_save", {"lm_head"}}}, "modules_to_save"},
      {Json{{"fan_in_fan_out", true}}, "fan_in_fan_out"},
      {Json{{"init_lora_weights", "pissa_niter_4"}}, "init_lora_weights"},
      {Json{{"peft_type", "VERA"}}, "peft_type"},
      {Json{{"task_type", "SEQ_CLS"}}, "task_type"},
      {Json{{"of_tomorrow", 3}}, "of_tomorrow"},
      {Json{{"r", 0}}, "r"},
      {Json{{"rank_pattern", {{"(?P<x>q)_proj", 4}}}}, "rank_pattern"},
      {Json{{"alpha_pattern", {{"q_proj(", 4}}}}, "alpha_pattern"},
      {Json{{"rank_pattern", {{"q_proj", 1.5}}}}, "rank_pattern"},
      {Json{{"lora_alpha", "x"}}, "lora_alpha"},
      {Json{{"lora_alpha", 0}}, "lora_alpha"},
  }));
  CAPTURE(text);
  const Folder folder;
  write_folder(folder, q_factors(), changes);
  CHECK_THROWS_AS(peft::read_adapter(folder.path), ConfigError);
  CHECK_THROWS_WITH(peft::read_adapter(folder.path),
                    Catch::Contains("adapter_config.json: " + text + ": "));
}

TEST_CASE("defaults, whatever their form, are accepted", "[peft]") {
  const Folder folder;
  write_folder(folder, q_factors(),
               {{"use_dora", false},
                {"of_tomorrow", nullptr},
                {"loftq_config", Json::object()},
                {"modules_to_save", Json::array()},
                {"megatron_core", "megatron.core"},
                {"init_lora_weights", "gaussian"},
                {"auto_mapping", {{"base_model_class", "LlamaForCausalLM"}}}});
  CHECK(peft::read_adapter(folder.path).config.lora_alpha == 4.0);
}

TEST_CASE("a file whose tensors are none of an adapter's is refused by tensor", "[peft]") {
  auto tensors = q_factors();
  const auto& [change, text] = GENERATE(table<int, std::string>({
      {0, "expected the key of a linear layer's factor"},
      {1, "differ in rank"},
      {2, "holds a value that is not finite"},
      {3, "is missing"},
      {4, "expected F32, F16 or BF16, found I64"},
      {5, "expected a matrix"},
      {6, "holds no factors"},
      {7, "a second tensor for"},
  }));
  if (change == 0) tensors[0].first = "base_model.model.model.embed_tokens.lora_embedding_A";
  if (change == 1) tensors[0].second = at::randn({3, 8});
  if (change == 2) tensors[0].second[0][0] = std::nan("");
  if (change == 3) tensors.pop_back();
  if (change == 4) tensors[0].second = at::ones({2, 8}, at::kLong);
  if (change == 5) tensors[0].second = at::randn({16});
  if (change == 6) tensors.clear();
  if (change == 7)
    tensors.emplace_back("base_model.model.model.layers.0.q_proj.lora_A.other.weight",
                         at::randn({2, 8}));
  const Folder folder;
  write_folder(folder, tensors);
  CHECK_THROWS_AS(peft::read_adapter(folder.path), FileError);
  CHECK_THROWS_WITH(peft::read_adapter(folder.path), Catch::Contains(text));
}

TEST_CASE("an adapter of another model is refused by tensor and shape", "[peft]") {
  auto tensors = q_factors();
  const Folder folder;
  ToyModel model(at::kFloat);
  SECTION("another width") {
    for (auto& [key, factor] : tensors)
      if (key.find("lora_A") != std::string::npos) factor = at::randn({2, 9});
    write_folder(folder, tensors);
    CHECK_THROWS_WITH(seat(model, folder.path),
                      Catch::Contains("layers.0.q_proj.lora_A.weight: expected shape (2, 8), found "
                                      "(2, 9)"));
  }
  SECTION("more layers") {
    tensors[2].first = "base_model.model.model.layers.7.q_proj.lora_A.weight";
    tensors[3].first = "base_model.model.model.layers.7.q_proj.lora_B.weight";
    write_folder(folder, tensors);
    CHECK_THROWS_WITH(seat(model, folder.path), Catch::Contains("model.layers.7.q_proj"));
  }
  SECTION("a module of target_modules without factors") {
    tensors.resize(2);
    write_folder(folder, tensors);
    CHECK_THROWS_WITH(seat(model, folder.path),
                      Catch::Contains("layers.1.q_proj.lora_A.weight is missing"));
  }
}

TEST_CASE("factors that a configuration does not ask for, and missing ones, are named", "[peft]") {
  const Folder folder;
  write_folder(folder, q_factors());
  const auto files = peft::read_adapter(folder.path);
  ToyModel fewer(at::kFloat), more(at::kFloat);
  LoraAdapter one(fewer, targets({"model.layers.0.q_proj"}), 1),
      two(more, targets({"q_proj", "k_proj"}), 1);
  CHECK_THROWS_WITH(peft::load_factors(files, one),
                    Catch::Contains("layers.1.q_proj.lora_A.weight fits no adapted layer"));
  CHECK_THROWS_WITH(peft::load_factors(files, two),
                    Catch::Contains("layers.0.k_proj.lora_A.weight is missing"));
}

TEST_CASE("a router that is adapted by factors is said to be one", "[peft]") {
  const Folder folder;
  write_folder(folder,
               {{"base_model.model.model.layers.0.mlp.gate.lora_A.weight", at::ones({2, 8})},
                {"base_model.model.model.layers.0.mlp.gate.lora_B.weight", at::ones({4, 2})}});
  CHECK_THROWS_WITH(peft::read_adapter(folder.path),
                    Catch::Contains("model.layers.0.mlp.gate is a router"));
}

TEST_CASE("what is no adapter folder is said", "[peft]") {
  const Folder folder;
  CHECK_THROWS_WITH(peft::read_adapter(folder.path / "x"), Catch::EndsWith("no such adapter"));
  CHECK_THROWS_WITH(peft::read_adapter(folder.path),
                    Catch::Contains("adapter_config.json: no such file"));
  std::ofstream(folder.path / "adapter_model.bin") << "x";
  CHECK_THROWS_WITH(peft::read_adapter(folder.path), Catch::Contains("a pickle"));
  std::ofstream(folder.path / "adapter_config.json") << "{\"r\": ";
  std::ofstream(folder.path / "adapter_model.safetensors") << "x";
  CHECK_THROWS_AS(peft::read_adapter(folder.path), ConfigError);
  CHECK_THROWS_AS(peft::read_adapter(folder.path / "adapter_model.bin"), FileError);
}

TEST_CASE("an adapter with a value that is not finite is not accepted as written", "[peft]") {
  ToyModel model(at::kFloat);
  LoraAdapter adapter(model, targets({"q_proj"}), 1);
  {
    const at::NoGradGuard no_grad;
    adapter.layers()[1]->B().fill_(std::nan(""));
  }
  const Folder folder;
  CHECK_THROWS_AS(peft::write_adapter(adapter, "m", folder.path), FileError);
}

TEST_CASE("a clean folder of an adapter by another writer has the same factors and targets",
          "[peft]") {
  auto tensors = q_factors();
  for (auto& [key, factor] : tensors) key.insert(key.size() - 7, ".default");
  const Folder dirty, clean;
  write_folder(dirty, tensors, {{"use_rslora", true}, {"auto_mapping", {{"a", "b"}}}});
  const auto files = peft::read_adapter(dirty.path);
  peft::write_adapter(files, clean.path);
  const auto again = peft::read_adapter(clean.path);
  CHECK(again.config.use_rslora);
  CHECK(again.listed_targets == std::vector<std::string>{"q_proj"});
  REQUIRE(again.factors.size() == files.factors.size());
  for (const auto& [key, factor] : files.factors) CHECK(at::equal(again.factors.at(key), factor));
}
