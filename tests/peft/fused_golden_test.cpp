// Fused factors of experts as HF PEFT itself writes them (scripts/golden/make_peft_goldens.py).
#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>
#include <stdlib.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "models/files/safetensors.hpp"
#include "peft/adapter_file.hpp"

using namespace tailor;
namespace fs = std::filesystem;

namespace {

const fs::path kGolden = TAILOR_GOLDEN;

struct Folder {
  fs::path path;
  Folder() {
    auto name = (fs::temp_directory_path() / "tailor_fused_XXXXXX").string();
    path = mkdtemp(name.data());
  }
  ~Folder() { fs::remove_all(path); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
};

std::string model_type(const std::string& name) {
  return name == "mixtral_by_expert" ? "mixtral" : name;
}

peft::AdapterFiles read_fused(const std::string& name) {
  return peft::read_adapter(kGolden / "fused" / name, model_type(name));
}

void check_equal(const std::map<std::string, at::Tensor>& found,
                 const std::map<std::string, at::Tensor>& expected) {
  CHECK(found.size() == expected.size());
  for (const auto& [key, value] : expected) {
    CAPTURE(key);
    REQUIRE(found.contains(key));
    CHECK(at::equal(found.at(key), value));
  }
}

void check_same_adapter(const peft::AdapterFiles& found, const peft::AdapterFiles& expected) {
  check_equal(found.factors, expected.factors);
  check_equal(found.saved, expected.saved);
  CHECK(found.config.target_modules == expected.config.target_modules);
  for (const auto& path : expected.config.target_modules) {
    CAPTURE(path);
    CHECK(found.config.rank_of(path) == expected.config.rank_of(path));
    CHECK(found.config.scale_of(path) == Approx(expected.config.scale_of(path)));
  }
}

/// Every tensor of a file, by its key.
std::map<std::string, at::Tensor> tensors_of(const fs::path& folder) {
  const auto file = models::open_safetensors(folder / "adapter_model.safetensors");
  std::map<std::string, at::Tensor> out;
  for (const auto& entry : file->entries())
    out.emplace(entry.name, file->read(entry.name, at::kFloat));
  return out;
}

}  // namespace

TEST_CASE("the fused form is PEFT's own file", "[peft]") {
  const auto name =
      GENERATE(as<std::string>(), "mixtral", "qwen3_moe", "deepseek_v3", "mixtral_by_expert");
  CAPTURE(name);
  const auto files = read_fused(name);
  const Folder folder;
  peft::write_adapter(peft::with_fused_experts(files), folder.path);
  check_equal(tensors_of(folder.path), tensors_of(kGolden / "fused" / name));
  check_same_adapter(peft::read_adapter(folder.path, model_type(name)), files);
}

TEST_CASE("what PEFT fused comes apart into the experts' factors that it was given", "[peft]") {
  const auto found = read_fused("mixtral_by_expert");
  const auto given = peft::read_adapter(kGolden / "sparse" / "mixtral");
  check_same_adapter(found, given);
  const Folder folder;
  peft::write_adapter(peft::with_fused_experts(given), folder.path);
  check_equal(tensors_of(folder.path), tensors_of(kGolden / "fused" / "mixtral_by_expert"));
}

TEST_CASE("factors by expert of what PEFT fused name all that is adapted", "[peft]") {
  const auto name = GENERATE(as<std::string>(), "mixtral", "qwen3_moe", "deepseek_v3");
  CAPTURE(name);
  const auto files = read_fused(name);
  const Folder folder;
  peft::write_adapter(files, folder.path);
  const auto again = peft::read_adapter(folder.path);
  check_same_adapter(again, files);
  CHECK(again.listed_targets == files.config.target_modules);
}
