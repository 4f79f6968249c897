#include "peft/adapter_file.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/isfinite.h>

#include <algorithm>
#include <set>
#include <system_error>
#include <utility>

#include "models/files/durable_file.hpp"
#include "models/files/mapped_file.hpp"
#include "models/files/safetensors.hpp"
#include "peft/adapter_config.hpp"
#include "peft/fused_experts.hpp"
#include "peft/target_modules.hpp"

namespace tailor::peft {
namespace {

namespace fs = std::filesystem;
using models::FileError;

constexpr const char* kConfigName = "adapter_config.json";
constexpr const char* kWeightsName = "adapter_model.safetensors";
const std::string kPrefix = "base_model.model.";

struct ParsedKey {
  std::string path;
  char factor = 0;  // 'A' or 'B'; 0: the key is none of a linear layer's
};

/// "base_model.model.<path>.lora_A.weight", with a segment for the adapter's name or without.
ParsedKey parse_key(const std::string& key) {
  const std::string tail = ".weight";
  if (!key.starts_with(kPrefix) || !key.ends_with(tail)) return {};
  for (const char factor : {'A', 'B'}) {
    const auto segment = std::string(".lora_") + factor;
    const auto at = key.rfind(segment + '.');
    if (at == std::string::npos || at <= kPrefix.size()) continue;
    const auto after = at + segment.size();  // "" or ".default" is left before the tail
    const auto name = key.substr(after, key.size() - tail.size() - after);
    if (!name.empty() && (name.size() < 2 || name.find('.', 1) != std::string::npos)) continue;
    return {.path = key.substr(kPrefix.size(), at - kPrefix.size()), .factor = factor};
  }
  return {};
}

at::Tensor read_finite(const models::TensorSource& source, const models::TensorEntry& entry,
                       std::size_t dims, const std::string& place) {
  if (entry.dtype != "F32" && entry.dtype != "F16" && entry.dtype != "BF16")
    throw FileError(place + ": expected F32, F16 or BF16, found " + entry.dtype);
  if (entry.shape.size() != dims || std::ranges::any_of(entry.shape, [](auto n) { return n < 1; }))
    throw FileError(place + (dims == 2 ? ": expected a matrix" : ": expected a vector") +
                    ", found shape " + models::shape_text(entry.shape));
  auto value = source.read(entry.name, at::kFloat);
  if (!at::isfinite(value).all().item<bool>())
    throw FileError(place + ": holds a value that is not finite");
  return value;
}

/// Adds a tensor of a router that modules_to_save names; false for any other.
bool add_saved(AdapterFiles& files, const models::TensorSource& source,
               const models::TensorEntry& entry) {
  for (const auto* parameter : {AdaptedRouter::kWeight, AdaptedRouter::kCorrectionBias}) {
    const auto tail = std::string(".gate.") + parameter;
    if (!entry.name.starts_with(kPrefix) || !entry.name.ends_with(tail)) continue;
    const auto length = entry.name.size() - kPrefix.size() - tail.size();
    const auto path = entry.name.substr(kPrefix.size(), length) + ".gate";
    files.saved[saved_key(path, parameter)] =
        read_finite(source, entry, std::string_view(parameter) == AdaptedRouter::kWeight ? 2 : 1,
                    files.file + ": tensor " + models::in_quotes(entry.name));
    return true;
  }
  return false;
}

void add_factor(AdapterFiles& files, const models::TensorSource& source,
                const models::TensorEntry& entry, std::set<std::string>& paths) {
  const auto place = files.file + ": tensor " + models::in_quotes(entry.name);
  const auto parsed = parse_key(entry.name);
  if (parsed.factor == 0)
    throw FileError(place + ": expected the key of a linear layer's factor, " + kPrefix +
                    "<path>.lora_A.weight or .lora_B.weight");
  if (module_class(parsed.path) == "gate")
    throw FileError(place + ": " + parsed.path +
                    " is a router, which cannot be adapted by factors; expected it to be left "
                    "out of target_modules, or trained whole (modules_to_save)");
  auto factor = read_finite(source, entry, /*dims=*/2, place);
  const auto key = factor_key(parsed.path, parsed.factor);
  if (!files.factors.emplace(key, std::move(factor)).second)
    throw FileError(place + ": a second tensor for " + key + "; expected one adapter in the file");
  paths.insert(parsed.path);
}

std::set<std::string> paths_of(const std::map<std::string, at::Tensor>& factors) {
  std::set<std::string> paths;
  for (const auto& [key, factor] : factors) paths.insert(parse_key(key).path);
  return paths;
}

/// Each module has both factors, of one rank.
void check_pairs(const AdapterFiles& files, const std::set<std::string>& paths) {
  for (const auto& path : paths) {
    const auto A = files.factors.find(factor_key(path, 'A'));
    const auto B = files.factors.find(factor_key(path, 'B'));
    for (const char factor : {'A', 'B'})
      if ((factor == 'A' ? A : B) == files.factors.end())
        throw FileError(files.file + ": tensor " + factor_key(path, factor) + " is missing");
    if (A->second.size(0) != B->second.size(1))
      throw FileError(files.file + ": " + path + ": lora_A " +
                      models::shape_text(A->second.sizes()) + " and lora_B " +
                      models::shape_text(B->second.sizes()) + " differ in rank");
  }
}

using Tensors = std::vector<std::pair<std::string, at::Tensor>>;

/// By their keys; the adapter's memory, wherever it is.
Tensors router_tensors(const LoraAdapter& adapter) {
  Tensors out;
  for (const auto& router : adapter.routers())
    for (const auto& [parameter, value] : router->tensors())
      out.emplace_back(saved_key(router->path(), parameter), value);
  return out;
}

/// The tensor of `key` among those of a file, of the shape that `target` has.
const at::Tensor& fitting(const std::map<std::string, at::Tensor>& tensors, const std::string& key,
                          const at::Tensor& target, const std::string& file) {
  const auto found = tensors.find(key);
  if (found == tensors.end())
    throw FileError(file + ": tensor " + key + " is missing; expected shape " +
                    models::shape_text(target.sizes()));
  if (found->second.sizes() != target.sizes())
    throw FileError(file + ": tensor " + key + ": expected shape " +
                    models::shape_text(target.sizes()) + ", found " +
                    models::shape_text(found->second.sizes()));
  return found->second;
}

void load_routers(const AdapterFiles& files, const LoraAdapter& adapter) {
  const auto tensors = router_tensors(adapter);
  if (tensors.empty() && !files.saved.empty())
    throw FileError(files.file + ": tensor " + files.saved.begin()->first +
                    " is a trained router; expected none where router.train_router is false");
  auto left = files.saved;
  for (const auto& [key, target] : tensors) {
    target.copy_(fitting(files.saved, key, target, files.file));
    left.erase(key);
  }
  if (!left.empty())
    throw FileError(files.file + ": tensor " + left.begin()->first +
                    " fits no router of the model");
}

/// Weights first: a folder with a configuration has its weights.
void write_both(const fs::path& directory, const Tensors& tensors, const std::string& config) {
  fs::create_directories(directory);
  models::write_safetensors(directory / kWeightsName, tensors, {{"format", "pt"}});
  models::write_durable_file(directory / kConfigName, config);
}

void verify(const AdapterFiles& memory, const fs::path& directory) {
  const auto files = read_adapter(directory);
  const auto differs = [&](const std::string& what) {
    throw FileError(files.file + ": read back, " + what + " differs from memory");
  };
  const auto compare = [&](const auto& read, const auto& written) {
    if (read.size() != written.size()) differs("the number of tensors");
    for (const auto& [key, value] : written) {
      const auto found = read.find(key);
      if (found == read.end() || !at::equal(found->second, value)) differs(key);
    }
  };
  compare(files.factors, memory.factors);
  compare(files.saved, memory.saved);
  for (const auto& path : paths_of(memory.factors))
    if (files.config.scale_of(path) != memory.config.scale_of(path))
      differs("the scale of " + path);
}

}  // namespace

fs::path adapter_folder(const fs::path& adapter) {
  std::error_code error;
  if (!fs::exists(adapter, error)) throw FileError(adapter.string() + ": no such adapter");
  auto folder = adapter;
  if (!fs::is_directory(adapter, error)) {
    const auto name = adapter.filename();
    if (name != kWeightsName && name != kConfigName)
      throw FileError(adapter.string() + ": expected a folder with " + kConfigName + " and " +
                      kWeightsName);
    folder = adapter.has_parent_path() ? adapter.parent_path() : fs::path(".");
  } else if (!fs::exists(folder / kConfigName, error) &&
             fs::exists(folder / "adapter" / kConfigName, error)) {
    folder /= "adapter";  // a run directory
  }
  for (const auto* name : {kConfigName, kWeightsName}) {
    if (fs::is_regular_file(folder / name, error)) continue;
    const bool pickle = fs::exists(folder / "adapter_model.bin", error);
    throw FileError((folder / name).string() +
                    ": no such file; expected an adapter in PEFT's layout" +
                    (pickle ? ", found adapter_model.bin, a pickle: save it as safetensors" : ""));
  }
  return folder;
}

AdapterFiles read_adapter(const fs::path& adapter, const std::string& model_type) {
  const auto folder = adapter_folder(adapter);
  const auto config_file = (folder / kConfigName).string();
  auto config = parse_adapter_config(models::read_text_file(config_file), config_file);
  AdapterFiles files{.config = std::move(config.lora),
                     .base_model_name_or_path = std::move(config.base_model_name_or_path),
                     .factors = {},
                     .listed_targets = {},
                     .file = (folder / kWeightsName).string()};
  const auto source = models::open_safetensors(folder / kWeightsName);
  std::set<std::string> paths;
  const bool saves_routers = !config.modules_to_save.empty();
  for (const auto& entry : source->entries())
    if (!saves_routers || !add_saved(files, *source, entry))
      add_factor(files, *source, entry, paths);
  if (paths.empty()) throw FileError(files.file + ": holds no factors");
  if (saves_routers && files.saved.empty())
    throw FileError(files.file + ": holds no router, though modules_to_save names \"" +
                    config.modules_to_save.front() + '"');
  files.config.train_router = saves_routers;
  check_pairs(files, paths);
  const bool by_parameter = !config.target_parameters.empty();
  if (by_parameter) {
    ExpertFactors experts{std::move(files.factors), std::move(files.config),
                          std::move(config.target_parameters)};
    unfuse_experts(experts, config.peft_version, files.file, expert_names(model_type));
    files.factors = std::move(experts.factors);
    files.config = std::move(experts.config);
    paths = paths_of(files.factors);
  }
  auto& lora = files.config;
  const bool list_alone = !lora.target_is_pattern && lora.exclude_modules.empty();
  if (list_alone && !config.by_layer && !by_parameter)
    files.listed_targets = std::move(lora.target_modules);
  lora.target_modules.assign(paths.begin(), paths.end());
  lora.target_is_pattern = lora.exclude_is_pattern = false;
  lora.exclude_modules.clear();
  return files;
}

bool complete_routers(AdapterFiles& files, const LoraAdapter& adapter) {
  if (!files.saved.empty() || adapter.routers().empty()) return false;
  for (auto& [key, value] : router_tensors(adapter)) files.saved.emplace(key, value.cpu());
  return true;
}

void load_factors(const AdapterFiles& files, LoraAdapter& adapter) {
  const at::NoGradGuard no_grad;
  load_routers(files, adapter);
  std::set<std::string> left;
  for (const auto& [key, factor] : files.factors) left.insert(key);
  std::set<std::string> adapted;
  std::set<const void*> filled;  // of factors that experts share
  for (const auto& module : adapter.modules()) {
    adapted.insert(module.path);
    for (const char factor : {'A', 'B'}) {
      const auto key = factor_key(module.path, factor);
      const auto& target = factor == 'A' ? module.A : module.B;
      const bool shared = factor == 'A' ? module.shared_A : module.shared_B;
      const auto& found = fitting(files.factors, key, target, files.file);
      if (shared && !filled.insert(target.const_data_ptr()).second) {
        if (!at::equal(target.cpu(), found))
          throw FileError(files.file + ": tensor " + key +
                          " differs from that of the layer's first expert, which "
                          "peft.expert_lora lets all of them share");
      } else {
        target.copy_(found);
      }
      left.erase(key);
    }
  }
  if (!left.empty())
    throw FileError(
        files.file + ": tensor " + *left.begin() + " fits no adapted layer of the model" +
        (left.size() == 1 ? "" : " (and " + std::to_string(left.size() - 1) + " more)"));
  for (const auto& path : adapter.module_paths())
    for (const auto& name : files.listed_targets)
      if (names_module(name, path) && !adapted.contains(path))
        throw FileError(files.file + ": tensor " + factor_key(path, 'A') +
                        " is missing: target_modules names \"" + name + '"');
}

AdapterFiles adapter_files(const LoraAdapter& adapter, const std::string& base_model_name_or_path) {
  AdapterFiles files{.config = adapter.config(),
                     .base_model_name_or_path = base_model_name_or_path};
  std::vector<std::string> paths;
  for (const auto& module : adapter.modules()) {
    files.factors.emplace(factor_key(module.path, 'A'), module.A.cpu());
    files.factors.emplace(factor_key(module.path, 'B'), module.B.cpu());
    paths.push_back(module.path);
  }
  files.listed_targets = explicit_targets(paths, adapter.module_paths());
  for (auto& [key, value] : router_tensors(adapter)) files.saved.emplace(key, value.cpu());
  return files;
}

void write_adapter(const LoraAdapter& adapter, const std::string& base_model_name_or_path,
                   const fs::path& directory) {
  write_adapter(adapter_files(adapter, base_model_name_or_path), directory);
}

AdapterFiles with_fused_experts(AdapterFiles files) {
  ExpertFactors experts{std::move(files.factors), std::move(files.config), {}};
  fuse_experts(experts, files.file);
  if (experts.target_parameters.empty())
    throw FileError(files.file + ": holds no factors of routed experts");
  files.factors = std::move(experts.factors);
  files.config = std::move(experts.config);
  files.target_parameters = std::move(experts.target_parameters);
  files.listed_targets.clear();
  std::erase_if(files.config.target_modules, [&](const auto& path) {
    return !files.factors.contains(factor_key(path, 'A')) ||
           std::ranges::find(files.target_parameters, path + ".weight") !=
               files.target_parameters.end();
  });
  return files;
}

void write_adapter(const AdapterFiles& files, const fs::path& directory) {
  if (files.factors.empty()) throw FileError(directory.string() + ": the adapter has no layers");
  const auto& targets = files.listed_targets.empty() ? files.config.target_modules  // full paths
                                                     : files.listed_targets;
  Tensors tensors(files.factors.begin(), files.factors.end());
  tensors.insert(tensors.end(), files.saved.begin(), files.saved.end());
  // More than the last segment, which PEFT would take for Qwen2-MoE's shared_expert_gate as well.
  std::vector<std::string> modules_to_save;
  if (!files.saved.empty()) modules_to_save.emplace_back("mlp.gate");
  write_both(directory, tensors,
             format_adapter_config(files.config, targets, files.base_model_name_or_path,
                                   files.target_parameters, modules_to_save));
  if (files.target_parameters.empty()) verify(files, directory);
}

}  // namespace tailor::peft
