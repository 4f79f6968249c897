#include "models/files/inspect.hpp"

#include <algorithm>
#include <array>
#include <fstream>
#include <nlohmann/json.hpp>

#include "models/files/gguf.hpp"
#include "models/files/gguf_model.hpp"
#include "models/files/hf_directory.hpp"
#include "models/files/mapped_file.hpp"
#include "models/files/safetensors.hpp"

namespace tailor::models {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

/// A vocabulary would fill the screen.
Json shortened(Json list) {
  constexpr std::size_t kMaxShown = 16, kFirst = 4;
  if (list.size() <= kMaxShown) return list;
  Json first = Json::array();
  for (std::size_t i = 0; i < kFirst; ++i) first.push_back(std::move(list[i]));
  return {{"length", list.size()}, {"first", std::move(first)}};
}

Json json_of(const GgufValue& value) {
  if (const auto* number = std::get_if<double>(&value.value)) return shortest_decimal(*number);
  if (const auto* array = std::get_if<GgufValue::Array>(&value.value)) {
    return std::visit([](const auto& list) { return shortened(Json(list)); }, *array);
  }
  if (const auto* truth = std::get_if<bool>(&value.value)) return *truth;
  if (const auto* text = std::get_if<std::string>(&value.value)) return *text;
  if (const auto* number = std::get_if<std::int64_t>(&value.value)) return *number;
  return std::get<std::uint64_t>(value.value);
}

void shorten_lists(Json& json, int depth = 0) {
  constexpr int kMaxDepth = 8;
  if (json.is_array()) json = shortened(std::move(json));
  if (!json.is_structured()) return;
  if (depth == kMaxDepth) {
    json = "...";
    return;
  }
  for (Json& value : json) shorten_lists(value, depth + 1);
}

Json json_file(const fs::path& file) {
  Json json = Json::parse(read_text_file(file), nullptr, false);
  if (json.is_discarded()) throw FileError(file.string() + ": no JSON");
  shorten_lists(json);
  return json;
}

std::string text_of(const Json& json) {
  // Metadata may be any bytes: what is no UTF-8 is replaced, not an error.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Inspection of_tensors(std::string kind, const std::vector<TensorEntry>& tensors,
                      const Json& metadata) {
  Inspection result{std::move(kind), tensors};
  for (const TensorEntry& tensor : tensors) {
    std::int64_t values = 1;
    for (const std::int64_t size : tensor.shape) values *= size;
    result.num_parameters += values;
    result.num_bytes += tensor.num_bytes;
  }
  result.metadata_json = text_of(metadata);
  return result;
}

Inspection of_gguf(const fs::path& file) {
  const auto gguf = open_gguf(file);
  Json metadata = Json::object();
  metadata["version"] = gguf->header().version;
  for (const auto& [key, value] : gguf->header().metadata) metadata[key] = json_of(value);
  return of_tensors("gguf", gguf->entries(), metadata);
}

Inspection of_safetensors(const fs::path& file) {
  const auto opened = open_safetensors(file);
  return of_tensors("safetensors", opened->entries(), Json(opened->metadata()));
}

Inspection of_index(const fs::path& file) {
  Json metadata = json_file(file).value("metadata", Json::object());
  return of_tensors("sharded safetensors", open_sharded_safetensors(file)->entries(), metadata);
}

Inspection of_model(const fs::path& directory) {
  Json metadata = Json::object();
  for (const char* const name : {"config.json", "generation_config.json"}) {
    if (fs::exists(directory / name)) metadata[name] = json_file(directory / name);
  }
  return of_tensors("hf directory", open_hf_weights(directory)->entries(), metadata);
}

Inspection of_adapter(const fs::path& directory) {
  const auto weights = open_safetensors(directory / "adapter_model.safetensors");
  Json metadata = Json(weights->metadata());
  for (const char* const name : {"adapter_config.json", "trainer_state.json"}) {
    if (fs::exists(directory / name)) metadata[name] = json_file(directory / name);
  }
  const bool is_checkpoint = fs::exists(directory / "trainer_state.json");
  return of_tensors(is_checkpoint ? "checkpoint" : "peft adapter", weights->entries(), metadata);
}

/// Empty where there is neither a final adapter nor a checkpoint.
fs::path newest_adapter(const fs::path& run) {
  if (fs::exists(run / "adapter" / "adapter_config.json")) return run / "adapter";
  fs::path newest;
  if (!fs::is_directory(run / "checkpoints")) return newest;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints")) {
    // step-000200: the order of names is the order of steps.
    const bool complete = fs::exists(entry.path() / "adapter_config.json");
    if (complete && entry.path().filename() > newest.filename()) newest = entry.path();
  }
  return newest;
}

Inspection of_directory(const fs::path& directory) {
  if (fs::exists(directory / "adapter_config.json")) return of_adapter(directory);
  const fs::path adapter = newest_adapter(directory);
  if (!adapter.empty()) {
    Inspection result = of_adapter(adapter);
    Json metadata = Json::parse(result.metadata_json);
    metadata["adapter"] = adapter.string();
    result.metadata_json = text_of(metadata);
    result.kind = "run directory";
    return result;
  }
  if (fs::exists(directory / "config.json")) return of_model(directory);
  throw FileError(directory.string() +
                  ": expected config.json (a model), adapter_config.json (an adapter) or a run's "
                  "adapter/ or checkpoints/, found none of them");
}

}  // namespace

Inspection inspect(const fs::path& path) {
  if (!fs::exists(path)) throw FileError(path.string() + ": no such file or directory");
  if (fs::is_directory(path)) return of_directory(path);
  std::array<char, 4> magic{};
  std::ifstream(path, std::ios::binary).read(magic.data(), magic.size());
  if (std::string_view(magic.data(), magic.size()) == "GGUF") return of_gguf(path);
  if (path.string().ends_with(".index.json")) return of_index(path);
  try {
    return of_safetensors(path);
  } catch (const FileError& error) {
    if (path.extension() == ".safetensors") throw;
    throw FileError(std::string(error.what()) + "; nor does it begin like a GGUF file");
  }
}

}  // namespace tailor::models
