#include "models/files/inspect.hpp"

#include <ATen/ops/ones.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>

#include "models/files/file_error.hpp"
#include "models/files/safetensors.hpp"

namespace tailor::models {
namespace {

namespace fs = std::filesystem;
using Catch::Matchers::Contains;
using Json = nlohmann::json;

const std::string kGolden = TAILOR_GOLDEN;

struct Folder {
  fs::path path = fs::temp_directory_path() / ("tailor_inspect_" + std::to_string(getpid()));
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
};

void write(const fs::path& file, const std::string& text) {
  fs::create_directories(file.parent_path());
  std::ofstream(file, std::ios::binary) << text;
}

void write_adapter(const fs::path& directory, std::int64_t r) {
  write(directory / "adapter_config.json",
        R"({"peft_type": "LORA", "r": )" + std::to_string(r) + "}");
  write_safetensors(directory / "adapter_model.safetensors", {{"lora_A", at::ones({r, 6})}},
                    {{"format", "pt"}});
}

TEST_CASE("A GGUF file shows its own names, shapes and metadata, long lists cut") {
  const Inspection seen = inspect(kGolden + "/files/tiny_llama3.gguf");
  CHECK(seen.kind == "gguf");
  const Json metadata = Json::parse(seen.metadata_json);
  CHECK(metadata["general.architecture"] == "llama");
  CHECK(metadata["llama.block_count"] == 2);
  CHECK(metadata["llama.attention.layer_norm_rms_epsilon"] == 1e-6);
  CHECK(metadata["tokenizer.ggml.tokens"]["length"] == 288);
  CHECK(metadata["tokenizer.ggml.tokens"]["first"][0] == "<|endoftext|>");
  const auto found = std::find_if(seen.tensors.begin(), seen.tensors.end(),
                                  [](const auto& t) { return t.name == "blk.1.ffn_down.weight"; });
  REQUIRE(found != seen.tensors.end());
  CHECK(found->shape == std::vector<std::int64_t>{32, 48});
  CHECK(found->dtype == "F32");
  CHECK(seen.num_bytes == 4 * seen.num_parameters);
}

TEST_CASE("A directory of a model counts the parameters of its weights") {
  const Inspection seen = inspect(kGolden + "/tiny_llama");
  CHECK(seen.kind == "hf directory");
  // Embedding, three layers (q, k, v, o, gate, up, down, two norms), the last norm.
  CHECK(seen.num_parameters == 288 * 32 + 3 * (32 * (32 + 16 + 16 + 32) + 3 * 32 * 48 + 64) + 32);
  CHECK(Json::parse(seen.metadata_json)["config.json"]["model_type"] == "llama");
}

TEST_CASE("A safetensors file and a sharded index show their tensors") {
  const Folder folder;
  write_safetensors(folder.path / "a.safetensors", {{"x", at::ones({2, 3})}}, {{"k", "v"}});
  Inspection seen = inspect(folder.path / "a.safetensors");
  CHECK(seen.kind == "safetensors");
  CHECK(seen.num_parameters == 6);
  CHECK(Json::parse(seen.metadata_json) == Json{{"k", "v"}});
  write(folder.path / "model.safetensors.index.json",
        R"({"metadata": {"total_size": 24}, "weight_map": {"x": "a.safetensors"}})");
  seen = inspect(folder.path / "model.safetensors.index.json");
  CHECK(seen.kind == "sharded safetensors");
  CHECK(seen.num_bytes == 24);
  CHECK(Json::parse(seen.metadata_json)["total_size"] == 24);
}

TEST_CASE("Adapters, checkpoints and runs are told apart") {
  const Folder folder;
  write_adapter(folder.path / "adapter", 4);
  Inspection seen = inspect(folder.path / "adapter");
  CHECK(seen.kind == "peft adapter");
  CHECK(seen.num_parameters == 24);
  CHECK(Json::parse(seen.metadata_json)["adapter_config.json"]["r"] == 4);
  seen = inspect(folder.path);
  CHECK(seen.kind == "run directory");
  CHECK(seen.num_parameters == 24);

  fs::remove_all(folder.path / "adapter");
  write_adapter(folder.path / "checkpoints/step-000002", 2);
  write_adapter(folder.path / "checkpoints/step-000010", 3);
  write(folder.path / "checkpoints/step-000010/trainer_state.json", R"({"step": 10})");
  CHECK(inspect(folder.path / "checkpoints/step-000010").kind == "checkpoint");
  seen = inspect(folder.path);
  CHECK(seen.kind == "run directory");
  CHECK(seen.num_parameters == 18);  // of the newest
  CHECK(Json::parse(seen.metadata_json)["trainer_state.json"]["step"] == 10);
}

TEST_CASE("What is none of the known kinds is said so") {
  const Folder folder;
  CHECK_THROWS_WITH(inspect(folder.path / "x"), Contains("x: no such file or directory"));
  const auto pipe = folder.path / "pipe.gguf";
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);  // which nobody writes to
  CHECK_THROWS_WITH(inspect(pipe), Contains("pipe.gguf: expected a regular file"));
  CHECK_THROWS_WITH(open_safetensors(pipe), Contains("pipe.gguf: expected a regular file"));
  CHECK_THROWS_WITH(inspect(folder.path), Contains("expected config.json (a model)"));
  const auto refused = [&](const char* name, const std::string& content, const char* found) {
    write(folder.path / name, content);
    CHECK_THROWS_WITH(inspect(folder.path / name),
                      (folder.path / name).string() +
                          ": expected a safetensors file, its .index.json, a GGUF file, or the "
                          "folder of a model, "
                          "an adapter or a run; found " +
                          found);
  };
  refused("x.txt", "hello, this is a text", "a text");
  refused("job.yaml", "task: sft\n", "YAML, the text of a job perhaps");
  refused("x.jsonl", "{\"text\": \"a\"}\n", "JSON lines, rows of data perhaps");
  refused("x.json", "{\"a\": 1}", "JSON; a model or an adapter is shown by its folder");
  refused("x.bin", "PK\x03\x04...",
          "a zip archive (a PyTorch pickle, .bin or .pt, is one: save it as safetensors)");
  refused("x.h5", std::string("\x89HDF\r\n\x1A\n"), "an HDF5 file");
  refused("x", "", "an empty file");
  refused("y", std::string("\0\1\2", 3), "bytes of no kind that is known");
  write(folder.path / "x.safetensors", "hello, this is a text");
  CHECK_THROWS_WITH(inspect(folder.path / "x.safetensors"), Contains("not a safetensors file"));
  write(folder.path / "x.gguf", "GGUF\x7f");
  CHECK_THROWS_WITH(inspect(folder.path / "x.gguf"), Contains("not a GGUF file: truncated"));
  write(folder.path / "adapter_config.json", "{");
  write_safetensors(folder.path / "adapter_model.safetensors", {}, {});
  CHECK_THROWS_WITH(inspect(folder.path), Contains("adapter_config.json: no JSON"));
}

TEST_CASE("Deeply nested JSON is cut instead of followed") {
  const Folder folder;
  write_adapter(folder.path, 1);
  write(folder.path / "adapter_config.json", std::string(100000, '[') + std::string(100000, ']'));
  CHECK(inspect(folder.path).metadata_json.size() < 1000);
}

}  // namespace
}  // namespace tailor::models
