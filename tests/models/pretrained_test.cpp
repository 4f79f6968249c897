#include "models/files/pretrained.hpp"

#include <ATen/Functions.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "models/files/gguf.hpp"
#include "models/files/gguf_model.hpp"
#include "models/files/safetensors.hpp"

namespace tailor::models {
namespace {

namespace fs = std::filesystem;
using Catch::Matchers::Contains;
using Json = nlohmann::json;

const std::string kGolden = TAILOR_GOLDEN;
const char* const kModels[] = {"tiny_llama", "tiny_llama3", "tiny_qwen2", "tiny_qwen3"};

struct Folder {
  fs::path path = fs::temp_directory_path() / ("tailor_pretrained_" + std::to_string(getpid()));
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
};

void write(const fs::path& file, const std::string& text) {
  std::ofstream(file, std::ios::binary) << text;
}

Pretrained from_gguf(const std::string& name) {
  return open_pretrained(kGolden + "/files/" + name + ".gguf");
}

/// A copy of a golden directory to break.
fs::path copy_of(const Folder& folder, const std::string& name) {
  const fs::path copy = folder.path / "model";
  fs::remove_all(copy);
  fs::copy(kGolden + "/" + name, copy);
  return copy;
}

/// rope_theta and rope_scaling, where transformers 5 writes them and where earlier versions do.
std::pair<double, Json> rope_of(const Json& config) {
  Json scaling = config.value("rope_parameters", config.value("rope_scaling", Json()));
  double theta = config.value("rope_theta", 0.0);
  if (scaling.is_object() && scaling.contains("rope_theta")) {
    theta = scaling["rope_theta"];
    scaling.erase("rope_theta");
  }
  if (scaling.is_object() && scaling["rope_type"] == "default") scaling = nullptr;
  return {theta, scaling};
}

TEST_CASE("A model gives the same tensors from its HF directory and from its GGUF file") {
  for (const std::string name : kModels) {
    INFO(name);
    const Pretrained hf = open_pretrained(kGolden + "/" + name);
    const Pretrained gguf = from_gguf(name);
    REQUIRE(gguf.tensors->entries().size() == hf.tensors->entries().size());
    for (const TensorEntry& entry : hf.tensors->entries()) {
      INFO(entry.name);
      REQUIRE(gguf.tensors->contains(entry.name));
      const at::Tensor read = gguf.tensors->read(entry.name, at::kFloat);
      CHECK(read.is_contiguous());
      CHECK(at::equal(read, hf.tensors->read(entry.name, at::kFloat)));
    }
  }
}

TEST_CASE("A model gives the same configuration from either form") {
  for (const std::string name : kModels) {
    INFO(name);
    const Json hf = Json::parse(open_pretrained(kGolden + "/" + name).config_json);
    const Json gguf = Json::parse(from_gguf(name).config_json);
    for (const auto& [key, value] : gguf.items()) {
      if (key == "rope_theta" || key == "rope_scaling") continue;
      INFO(key);
      if (key == "head_dim" && !hf.contains(key)) {
        CHECK(value.get<int>() * hf["num_attention_heads"].get<int>() == hf["hidden_size"]);
      } else {
        CHECK(value == hf.value(key, Json()));
      }
    }
    CHECK(rope_of(gguf) == rope_of(hf));
  }
}

TEST_CASE("A model gives the same tokens, template and ends of text from either form") {
  for (const std::string name : kModels) {
    INFO(name);
    const Pretrained hf = open_pretrained(kGolden + "/" + name);
    const Pretrained gguf = from_gguf(name);
    CHECK(gguf.chat_template == hf.chat_template);
    CHECK_FALSE(gguf.chat_template.empty());
    CHECK(gguf.generation.eos_token_id == std::vector<std::int64_t>{2});
    CHECK(hf.generation.eos_token_id == gguf.generation.eos_token_id);
    CHECK(hf.generation.bos_token_id == gguf.generation.bos_token_id);
    CHECK(hf.generation.pad_token_id == gguf.generation.pad_token_id);
    CHECK(hf.tokenizer->spec().eos_id == gguf.tokenizer->spec().eos_id);
    for (const std::string text :
         {"Ann has 12 apples, she'll buy 345.", "<|im_start|>user\nHi  there<|im_end|>\n",
          "caf\u00e9 \u4f60\u597d \U0001f600", "  x\n\n y "}) {
      CHECK(gguf.tokenizer->encode(text, true) == hf.tokenizer->encode(text, true));
      CHECK(gguf.tokenizer->decode(gguf.tokenizer->encode(text)) == text);
    }
  }
}

TEST_CASE("A directory written from a GGUF file opens to the same model") {
  const Folder folder;
  for (const std::string name : kModels) {
    INFO(name);
    const Pretrained gguf = from_gguf(name);
    const fs::path directory = folder.path / "out" / name;
    write_hf_directory(gguf, directory, at::kFloat);
    const Pretrained written = open_pretrained(directory);
    REQUIRE(written.tensors->entries().size() == gguf.tensors->entries().size());
    for (const TensorEntry& entry : gguf.tensors->entries()) {
      CHECK(at::equal(written.tensors->read(entry.name, at::kFloat),
                      gguf.tensors->read(entry.name, at::kFloat)));
    }
    Json config = Json::parse(written.config_json);
    CHECK(config["torch_dtype"] == "float32");
    config.erase("torch_dtype");
    CHECK(config == Json::parse(gguf.config_json));
    CHECK(written.chat_template == gguf.chat_template);
    CHECK(written.generation.eos_token_id == gguf.generation.eos_token_id);
    CHECK(written.tokenizer->spec().bos_id == gguf.tokenizer->spec().bos_id);
    const std::string text = "<|im_start|>Ann has 12 apples.<|im_end|> \u00e9";
    CHECK(written.tokenizer->encode(text, true) == gguf.tokenizer->encode(text, true));
    // No temporary directory is left beside it.
    for (const auto& entry : fs::directory_iterator(folder.path / "out")) {
      CHECK_FALSE(entry.path().filename().string().starts_with("."));
    }
  }
}

TEST_CASE("A directory written from a directory keeps its companions and takes the dtype") {
  const Folder folder;
  const fs::path directory = folder.path / "out/";
  fs::create_directory(directory);  // empty: accepted
  const Pretrained hf = open_pretrained(kGolden + "/tiny_llama3");
  write_hf_directory(hf, directory, at::kBFloat16);
  const Pretrained written = open_pretrained(directory);
  for (const TensorEntry& entry : written.tensors->entries()) {
    CHECK(entry.dtype == "BF16");
    CHECK(at::equal(written.tensors->read(entry.name, at::kBFloat16),
                    hf.tensors->read(entry.name, at::kBFloat16)));
  }
  CHECK(Json::parse(written.config_json)["torch_dtype"] == "bfloat16");
  CHECK(written.chat_template == hf.chat_template);
  CHECK_THROWS_WITH(write_hf_directory(hf, directory, at::kBFloat16),
                    Contains("exists already; expected a new or empty directory"));
  CHECK_THROWS_WITH(write_hf_directory(hf, directory / "config.json", at::kBFloat16),
                    Contains("exists already"));
}

TEST_CASE("A directory that cannot be completed does not appear") {
  /// A source whose second tensor fails.
  class Failing : public TensorSource {
   public:
    explicit Failing(std::shared_ptr<const TensorSource> inner) : inner_(std::move(inner)) {}
    const std::vector<TensorEntry>& entries() const override { return inner_->entries(); }
    bool contains(const std::string& name) const override { return inner_->contains(name); }
    at::Tensor read(const std::string& name, at::ScalarType dtype) const override {
      if (name == entries()[1].name) throw FileError("gone");
      return inner_->read(name, dtype);
    }

   private:
    std::shared_ptr<const TensorSource> inner_;
  };
  const Folder folder;
  Pretrained model = from_gguf("tiny_llama");
  model.tensors = std::make_shared<Failing>(model.tensors);
  CHECK_THROWS_WITH(write_hf_directory(model, folder.path / "out", at::kFloat), Contains("gone"));
  CHECK(fs::is_empty(folder.path));
}

TEST_CASE(
    "The end of text comes from generation_config.json, else config.json, else the tokenizer") {
  const Folder folder;
  const fs::path copy = copy_of(folder, "tiny_llama");
  write(copy / "generation_config.json", R"({"eos_token_id": [2, 7]})");
  CHECK(open_pretrained(copy).generation.eos_token_id == std::vector<std::int64_t>{2, 7});
  fs::remove(copy / "generation_config.json");
  Json config = Json::parse(open_pretrained(copy).config_json);
  config["eos_token_id"] = 9;
  write(copy / "config.json", config.dump());
  CHECK(open_pretrained(copy).generation.eos_token_id == std::vector<std::int64_t>{9});
  config.erase("eos_token_id");
  write(copy / "config.json", config.dump());
  CHECK(open_pretrained(copy).generation.eos_token_id == std::vector<std::int64_t>{2});
  write(copy / "generation_config.json", R"({"eos_token_id": -1})");
  CHECK_THROWS_WITH(
      open_pretrained(copy),
      Contains("generation_config.json: eos_token_id: expected") && Contains("found -1"));
}

TEST_CASE("The chat template is read from every place where HF keeps it") {
  const Folder folder;
  const fs::path copy = copy_of(folder, "tiny_llama");
  const std::string config = copy / "tokenizer_config.json";
  write(config, R"({"chat_template": "in the configuration"})");
  CHECK(open_pretrained(copy).chat_template ==
        open_pretrained(kGolden + "/tiny_llama").chat_template);
  fs::remove(copy / "chat_template.jinja");
  CHECK(open_pretrained(copy).chat_template == "in the configuration");
  write(config, R"({"chat_template": [{"name": "tool_use", "template": "t"},
                                      {"name": "default", "template": "d"}]})");
  CHECK(open_pretrained(copy).chat_template == "d");
  write(config, "{}");
  CHECK(open_pretrained(copy).chat_template.empty());
  write(config, R"({"chat_template": [3]})");
  CHECK_THROWS_WITH(open_pretrained(copy),
                    Contains("tokenizer_config.json: chat_template: expected"));
  write(config, R"({"eos_token": {"content": "<|im_start|>"}})");
  CHECK(open_pretrained(copy).tokenizer->spec().eos_id == 1);
  write(config, R"({"eos_token": "nowhere"})");
  CHECK_THROWS_WITH(open_pretrained(copy), Contains("eos_token: \"nowhere\" is no token of"));
}

TEST_CASE("A sharded directory is read like a single file") {
  const Folder folder;
  const fs::path copy = copy_of(folder, "tiny_llama");
  const auto whole = open_safetensors(copy / "model.safetensors");
  Json map;
  std::vector<std::pair<std::string, at::Tensor>> shards[2];
  for (const TensorEntry& entry : whole->entries()) {
    const std::size_t shard = map.size() % 2;
    map[entry.name] = shard == 0 ? "a.safetensors" : "b.safetensors";
    shards[shard].emplace_back(entry.name, whole->read(entry.name, at::kFloat));
  }
  write_safetensors(copy / "a.safetensors", shards[0], {});
  write_safetensors(copy / "b.safetensors", shards[1], {});
  fs::remove(copy / "model.safetensors");
  write(copy / "model.safetensors.index.json", Json{{"weight_map", map}}.dump());
  const Pretrained sharded = open_pretrained(copy);
  REQUIRE(sharded.tensors->entries().size() == whole->entries().size());
  for (const TensorEntry& entry : whole->entries()) {
    CHECK(at::equal(sharded.tensors->read(entry.name, at::kFloat),
                    whole->read(entry.name, at::kFloat)));
  }
}

TEST_CASE("What is missing or wrong in a directory is named") {
  const Folder folder;
  CHECK_THROWS_WITH(open_pretrained(folder.path / "none"),
                    Contains("none: no such file or directory"));
  CHECK_THROWS_WITH(open_pretrained(folder.path), Contains("no config.json"));
  CHECK_THROWS_WITH(open_pretrained(kGolden + "/tiny_llama/model.safetensors"),
                    Contains("weights alone; name the directory"));
  write(folder.path / "adapter_config.json", "{}");
  CHECK_THROWS_WITH(open_pretrained(folder.path), Contains("this is an adapter, not a model"));
  fs::path copy = copy_of(folder, "tiny_llama");
  fs::remove(copy / "tokenizer.json");
  CHECK_THROWS_WITH(open_pretrained(copy), Contains("tokenizer.json: missing"));
  fs::remove(copy / "model.safetensors");
  CHECK_THROWS_WITH(open_pretrained(copy), Contains("expected model.safetensors or"));
  write(copy / "pytorch_model.bin", "");
  CHECK_THROWS_WITH(open_pretrained(copy),
                    Contains("found pytorch_model.bin, which is not supported"));
  copy = copy_of(folder, "tiny_llama");
  write(copy / "config.json", "{\n\"a\": 1,\n\"b\" 2}");
  CHECK_THROWS_WITH(open_pretrained(copy), Contains("config.json:3: no JSON at byte"));
  write(copy / "config.json", "[]");
  CHECK_THROWS_WITH(open_pretrained(copy), Contains("config.json: expected a JSON object"));
}

TEST_CASE("Metadata of a GGUF file that is missing, wrong or not supported is named") {
  const auto gguf = open_gguf(kGolden + "/files/tiny_llama.gguf");
  const auto problem_with = [&](const std::string& key, std::optional<GgufValue> value) {
    /// The golden file with one key changed.
    class Changed : public GgufFile {
     public:
      Changed(const GgufFile& inner, GgufHeader header)
          : inner_(inner), header_(std::move(header)) {}
      const std::vector<TensorEntry>& entries() const override { return inner_.entries(); }
      bool contains(const std::string& name) const override { return inner_.contains(name); }
      at::Tensor read(const std::string& name, at::ScalarType dtype) const override {
        return inner_.read(name, dtype);
      }
      const GgufHeader& header() const override { return header_; }

     private:
      const GgufFile& inner_;
      GgufHeader header_;
    };
    GgufHeader header = gguf->header();
    header.metadata.erase(key);
    if (value) header.metadata.emplace(key, *value);
    const auto changed = std::make_shared<Changed>(*gguf, header);
    const GgufMetadata metadata(changed->header(), "m.gguf");
    try {
      gguf_config_json(*changed, metadata);
      gguf_as_hf_tensors(changed, metadata);
      text::make_tokenizer(gguf_tokenizer(metadata));
    } catch (const FileError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const auto number = [](std::int64_t value) { return GgufValue{value}; };
  const auto text = [](const char* value) { return GgufValue{std::string(value)}; };
  REQUIRE(problem_with("general.name", {}).empty());
  REQUIRE(problem_with("llama.attention.head_count_kv",
                       GgufValue{GgufValue::Array(std::vector<std::int64_t>{2, 2, 2})})
              .empty());
  const std::vector<std::tuple<std::string, std::optional<GgufValue>, std::string>> cases = {
      {"general.architecture", {}, "metadata \"general.architecture\": missing"},
      {"general.architecture", text("gemma3"), "expected llama, qwen2 or qwen3, found \"gemma3\""},
      {"general.architecture", number(1), "expected a text"},
      {"llama.block_count", {}, "metadata \"llama.block_count\": missing"},
      {"llama.block_count", text("x"), "expected a whole number"},
      {"llama.block_count", number(0), "expected a number above 0"},
      {"llama.block_count", number(INT64_MAX), "there is no tensor \"blk.9223372036854775806.attn"},
      {"llama.embedding_length", number(64), "expected the embedding's 32, found 64"},
      {"llama.rope.freq_base", GgufValue{std::nan("")}, "expected a number above 0"},
      {"llama.rope.scale_linear", GgufValue{0.5}, "expected a number of at least 1"},
      {"llama.embedding_length", GgufValue{~std::uint64_t{0}}, "is too large"},
      {"llama.attention.head_count_kv",
       GgufValue{GgufValue::Array(std::vector<std::int64_t>{2, 1, 2})}, "layers that differ"},
      {"llama.attention.head_count", number(5), "are not 5 heads of an even size"},
      {"llama.rope.dimension_count", number(4), "expected the head's 8, found 4"},
      {"llama.attention.scale", GgufValue{0.5}, "it may change what the model computes"},
      {"llama.expert_count", number(8), "a mixture of experts is not supported"},
      {"llama.rope.scaling.type", text("yarn"), "\"yarn\" is not supported"},
      {"tokenizer.ggml.model", text("llama"), "expected \"gpt2\" (byte-level BPE)"},
      {"tokenizer.ggml.pre", {}, "metadata \"tokenizer.ggml.pre\": missing"},
      {"tokenizer.ggml.tokens", number(3), "expected a list of texts"},
      {"tokenizer.ggml.token_type", GgufValue{GgufValue::Array(std::vector<std::int64_t>{1})},
       "values, found 1"},
      {"tokenizer.ggml.merges", GgufValue{GgufValue::Array(std::vector<std::string>{"ab"})},
       "merge 0: expected two parts, found \"ab\""},
      {"tokenizer.ggml.eos_token_id", number(100000), "expected an id below"},
      {"tokenizer.ggml.add_bos_token", text("yes"), "expected a boolean"},
  };
  for (const auto& [key, value, problem] : cases) {
    INFO(key);
    CHECK_THAT(problem_with(key, value), Contains(problem) && Contains("m.gguf"));
  }
}

}  // namespace
}  // namespace tailor::models
