#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "models/files/file_error.hpp"
#include "peft/lora.hpp"

namespace tailor::peft {

/// An adapter in HF PEFT's layout: adapter_config.json and adapter_model.safetensors, keys
/// "base_model.model.<path>.lora_A.weight" (r, in) and ".lora_B.weight" (out, r), float32.
struct AdapterFiles {
  /// Its targets are the full paths of the modules that have factors, whatever the file selected
  /// them by, so that an expression of Python's needs no twin here.
  LoraConfig config;
  std::string base_model_name_or_path;
  std::map<std::string, at::Tensor> factors;  // by key, float32, both of every module
  /// target_modules of the file where it is a list that alone selects: load_factors() asks for
  /// factors of every module that it names.
  std::vector<std::string> listed_targets;
  std::vector<std::string> target_parameters = {};  // of factors in the fused form
  /// Trained routers by saved_key(), float32: matrices and correction biases; empty: the base's.
  std::map<std::string, at::Tensor> saved = {};
  std::string file;  // adapter_model.safetensors, for messages
};

/// `adapter` is a PEFT folder, a checkpoint or run directory, or a file in one. float16 and
/// bfloat16 factors are widened, those of experts in the fused form (`target_parameters`) become
/// factors of each expert (see fused_experts.hpp), the name of an adapter inside a key
/// (".lora_A.default.weight") is dropped. Routers among modules_to_save set config.train_router.
/// `model_type`, of the base's config.json, says what those are called; without it they have the
/// names of most families, which Mixtral's are not. Fields of adapter_config.json that would change
/// the function and are not supported here (use_dora, bias, other modules_to_save, ...) are refused
/// by name; unknown ones only where they are not null, false or empty. Throws FileError or
/// configs::ConfigError.
AdapterFiles read_adapter(const std::filesystem::path& adapter, const std::string& model_type = "");

/// The folder that read_adapter() reads. Throws FileError where there is none.
std::filesystem::path adapter_folder(const std::filesystem::path& adapter);

/// Copies factors and saved routers into the adapter. Every key must fit a layer and every layer
/// must have its keys: what is missing, left over or has another shape is named.
void load_factors(const AdapterFiles& files, LoraAdapter& adapter);

/// Where the adapter trains routers and the files hold none, they begin as they are: the files with
/// the adapter's own. Answers whether that was so.
bool complete_routers(AdapterFiles& files, const LoraAdapter& adapter);

/// An adapter as its files hold it: factors of experts by expert, those that experts share once for
/// each, as PEFT knows no shared ones. The factors are the adapter's memory.
AdapterFiles adapter_files(const LoraAdapter& adapter, const std::string& base_model_name_or_path);

/// Writes adapter_files() into `directory`.
void write_adapter(const LoraAdapter& adapter, const std::string& base_model_name_or_path,
                   const std::filesystem::path& directory);

/// The same with factors of experts in the fused form, which is how PEFT adapts models of
/// transformers 5. Throws FileError where the adapter has no experts or the form cannot hold them.
AdapterFiles with_fused_experts(AdapterFiles files);

/// Writes both files into `directory`, each to a temporary name first, then renamed, and reads them
/// back: what differs from memory, or is empty, throws FileError. Fused factors are not compared:
/// they are read as factors of each expert.
void write_adapter(const AdapterFiles& files, const std::filesystem::path& directory);

}  // namespace tailor::peft
