#include "models/files/inspect.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

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

/// What a file of another kind seems to be, from its first bytes and its name.
std::string apparent_kind(std::string_view head, const fs::path& path) {
  constexpr std::pair<std::string_view, const char*> kMagics[] = {
      {"PK\x03\x04",
       "a zip archive (a PyTorch pickle, .bin or .pt, is one: save it as safetensors)"},
      {"\x80\x02", "a pickle (save it as safetensors)"},
      {"\x89HDF\r\n", "an HDF5 file"},
      {"\x1F\x8B", "a gzip file"},
      {"PAR1", "a Parquet file"},
      {"%PDF", "a PDF"}};
  if (head.empty()) return "an empty file";
  for (const auto& [magic, kind] : kMagics)
    if (head.starts_with(magic)) return kind;
  const bool is_text = std::ranges::none_of(
      head, [](unsigned char c) { return c == 0x7F || (c < 0x20 && (c < '\t' || c > '\r')); });
  if (!is_text) return "bytes of no kind that is known";
  const auto extension = path.extension();
  if (extension == ".yaml" || extension == ".yml") return "YAML, the text of a job perhaps";
  if (extension == ".jsonl") return "JSON lines, rows of data perhaps";
  if (extension == ".json") return "JSON; a model or an adapter is shown by its folder";
  return "a text";
}

[[noreturn]] void refuse(const fs::path& path, std::string_view head) {
  throw FileError(path.string() +
                  ": expected a safetensors file, its .index.json, a GGUF file, or the folder of a "
                  "model, an adapter or a run; found " +
                  apparent_kind(head, path));
}

/// 8 bytes of length, then a JSON object; the length of a text would be beyond any file.
bool begins_as_safetensors(std::string_view head, std::uintmax_t file_bytes) {
  std::uint64_t length = 0;
  if (head.size() <= sizeof length) return false;
  std::memcpy(&length, head.data(), sizeof length);
  return head[sizeof length] == '{' && length <= file_bytes;
}

}  // namespace

Inspection inspect(const fs::path& path) {
  if (!fs::exists(path)) throw FileError(path.string() + ": no such file or directory");
  if (fs::is_directory(path)) return of_directory(path);
  if (!fs::is_regular_file(path)) throw FileError(path.string() + ": expected a regular file");
  std::array<char, 512> block{};
  std::ifstream in(path, std::ios::binary);
  in.read(block.data(), block.size());
  const std::string_view head(block.data(), static_cast<std::size_t>(in.gcount()));
  if (head.starts_with("GGUF")) return of_gguf(path);
  if (path.string().ends_with(".index.json")) return of_index(path);
  if (path.extension() != ".safetensors" && !begins_as_safetensors(head, fs::file_size(path)))
    refuse(path, head);
  return of_safetensors(path);
}

}  // namespace tailor::models
