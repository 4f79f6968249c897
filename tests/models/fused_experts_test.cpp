#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <stdlib.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "models/families/causal_lm.hpp"
#include "models/files/fused_experts.hpp"
#include "models/files/safetensors.hpp"

using namespace tailor::models;
namespace fs = std::filesystem;
using Catch::Matchers::Contains;

namespace {

const std::string kGolden = TAILOR_GOLDEN;

struct Folder {
  fs::path path;
  Folder() {
    std::string name = fs::temp_directory_path() / "fused_experts_XXXXXX";
    path = ::mkdtemp(name.data());
  }
  ~Folder() { fs::remove_all(path); }
};

struct Family {
  std::string name, block, gate, up, down;
};
const Family kMixtral{"tiny_mixtral", "block_sparse_moe", "w1", "w3", "w2"};
const Family kQwen{"tiny_qwen3_moe", "mlp", "gate_proj", "up_proj", "down_proj"};

/// The tensors of the golden checkpoint as transformers 5 has them in memory: two for all experts,
/// and every block is "mlp".
std::vector<std::pair<std::string, at::Tensor>> fused(const TensorSource& source,
                                                      const Family& family) {
  std::vector<std::pair<std::string, at::Tensor>> out;
  for (const auto& entry : source.entries()) {
    if (entry.name.find(".experts.") != std::string::npos) continue;
    auto name = entry.name;
    const auto block = name.find(family.block + '.');
    if (block != std::string::npos) name.replace(block, family.block.size(), "mlp");
    out.emplace_back(name, source.read(entry.name, at::kFloat));
  }
  for (int layer = 0; layer < 2; ++layer) {
    const auto path = "model.layers." + std::to_string(layer) + '.';
    std::vector<at::Tensor> gate_up, down;
    for (int e = 0; e < 8; ++e) {
      const auto read = [&](const std::string& projection) {
        return source.read(
            path + family.block + ".experts." + std::to_string(e) + '.' + projection + ".weight",
            at::kFloat);
      };
      gate_up.push_back(at::cat({read(family.gate), read(family.up)}));
      down.push_back(read(family.down));
    }
    out.emplace_back(path + "mlp.experts.gate_up_proj", at::stack(gate_up));
    out.emplace_back(path + "mlp.experts.down_proj", at::stack(down));
  }
  return out;
}

/// A copy of the golden directory with fused tensors.
fs::path fused_directory(const Folder& folder, const Family& family) {
  const auto from = fs::path(kGolden) / family.name, to = folder.path / family.name;
  fs::copy(from, to);
  fs::remove(to / "model.safetensors");
  write_safetensors(to / "model.safetensors",
                    fused(*open_safetensors(from / "model.safetensors"), family), {});
  return to;
}

}  // namespace

TEST_CASE("a checkpoint of fused experts has the tensors of the published one", "[models]") {
  const Folder folder;
  const auto family = GENERATE(kMixtral, kQwen);
  CAPTURE(family.name);
  const auto published = open_safetensors(kGolden + '/' + family.name + "/model.safetensors");
  const auto pretrained = open_pretrained(fused_directory(folder, family));
  const auto& split = *pretrained.tensors;
  CHECK(split.entries().size() == published->entries().size());
  for (const auto& entry : published->entries()) {
    CAPTURE(entry.name);
    REQUIRE(split.contains(entry.name));
    const auto whole = published->read(entry.name, at::kFloat);
    CHECK(split.read(entry.name, at::kFloat).equal(whole));
    CHECK(split.read(entry.name, at::kBFloat16).equal(whole.to(at::kBFloat16)));
    for (std::int64_t dim = 0; dim < whole.dim(); ++dim) {
      const auto half = whole.size(dim) / 2, rest = whole.size(dim) - half;
      CHECK(split.read_slice(entry.name, at::kFloat, dim, half, rest)
                .equal(whole.narrow(dim, half, rest)));
      CHECK_THROWS_AS(split.read_slice(entry.name, at::kFloat, dim, half, rest + 1), FileError);
    }
  }
  for (const auto& entry : split.entries()) {
    CHECK(entry.num_bytes == split.read(entry.name, at::kFloat).numel() * 4);
    CHECK(entry.shape == published->read(entry.name, at::kFloat).sizes().vec());
  }
  CHECK_THROWS_AS(split.read("model.layers.0.mlp.experts.gate_up_proj", at::kFloat), FileError);
  const auto model = load_causal_lm(pretrained, at::kFloat, kernels::Arithmetic::Float32);
  CHECK(model->parameters().size() == published->entries().size());
}

TEST_CASE("a source without fused experts is given back", "[models]") {
  const std::shared_ptr<const TensorSource> source =
      open_safetensors(kGolden + "/tiny_mixtral/model.safetensors");
  CHECK(split_fused_experts(source, "mixtral") == source);
}

TEST_CASE("fused experts of another shape are refused by name", "[models]") {
  const Folder folder;
  const auto error = [&](const at::Tensor& gate_up) {
    const auto file = folder.path / "model.safetensors";
    write_safetensors(file, {{"model.layers.0.mlp.experts.gate_up_proj", gate_up}}, {});
    try {
      split_fused_experts(open_safetensors(file), "qwen3_moe");
    } catch (const FileError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  CHECK_THAT(error(at::zeros({4, 6})), Contains("mlp.experts.gate_up_proj") && Contains("three"));
  CHECK_THAT(error(at::zeros({4, 5, 2})), Contains("even number of rows"));
  CHECK(error(at::zeros({4, 6, 2})).empty());
}
