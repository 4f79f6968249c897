#include <unistd.h>

#include <array>
#include <nlohmann/json.hpp>
#include <system_error>

#include "models/files/durable_file.hpp"
#include "models/files/mapped_file.hpp"
#include "models/files/pretrained.hpp"
#include "models/files/safetensors_dtype.hpp"
#include "models/files/safetensors_writer.hpp"

namespace tailor::models {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

/// A directory under a temporary name; gone again unless it is published.
class NewDirectory {
 public:
  explicit NewDirectory(const fs::path& directory)
      : target_(fs::absolute(directory).lexically_normal()) {
    if (!target_.has_filename()) target_ = target_.parent_path();  // of "out/"
    if (fs::exists(target_) && !(fs::is_directory(target_) && fs::is_empty(target_))) {
      throw FileError(directory.string() + ": exists already; expected a new or empty directory");
    }
    fs::create_directories(target_.parent_path());
    const std::string name =
        "." + target_.filename().string() + "." + std::to_string(getpid()) + ".tmp";
    temporary_ = target_.parent_path() / name;
    fs::remove_all(temporary_);
    fs::create_directory(temporary_);
  }
  ~NewDirectory() {
    std::error_code ignored;
    fs::remove_all(temporary_, ignored);
  }
  NewDirectory(const NewDirectory&) = delete;
  NewDirectory& operator=(const NewDirectory&) = delete;

  const fs::path& path() const { return temporary_; }

  void publish() {
    flush_directory(temporary_);
    fs::rename(temporary_, target_);  // also over an empty directory
    flush_directory(target_.parent_path());
  }

 private:
  fs::path target_, temporary_;
};

std::string dtype_name(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return "float32";
    case at::kBFloat16:
      return "bfloat16";
    case at::kHalf:
      return "float16";
    default:
      TORCH_CHECK_VALUE(false, "weights are written as a floating dtype, not ", dtype);
  }
}

void write_weights(const TensorSource& tensors, const fs::path& file, at::ScalarType dtype) {
  std::vector<SafetensorsWriter::Plan> plans;
  for (const TensorEntry& entry : tensors.entries()) {
    const auto stored = dtype_named(entry.dtype);  // none for a block format of GGUF
    const bool keeps = stored && !at::isFloatingType(*stored);
    plans.push_back({entry.name, keeps ? *stored : dtype, entry.shape});
  }
  SafetensorsWriter writer(file, plans, {{"format", "pt"}});
  for (const auto& plan : plans) writer.write(plan.name, tensors.read(plan.name, plan.dtype));
  writer.commit();
}

Json config_of(const Pretrained& model, at::ScalarType dtype) {
  Json config = Json::parse(model.config_json);
  // transformers writes `dtype` since version 5 and reads both.
  config[config.contains("dtype") ? "dtype" : "torch_dtype"] = dtype_name(dtype);
  return config;
}

Json tokenizer_config_of(const Pretrained& model, const Json& config) {
  const text::TokenizerSpec& spec = model.tokenizer->spec();
  Json result;
  result["tokenizer_class"] = "PreTrainedTokenizerFast";
  result["clean_up_tokenization_spaces"] = false;
  if (config.contains("max_position_embeddings")) {
    result["model_max_length"] = config["max_position_embeddings"];
  }
  for (const auto& [name, id] :
       {std::pair("bos_token", spec.bos_id), std::pair("eos_token", spec.eos_id),
        std::pair("pad_token", spec.pad_id), std::pair("unk_token", spec.unk_id)}) {
    if (id) result[name] = model.tokenizer->token_text(*id);
  }
  if (!model.chat_template.empty()) result["chat_template"] = model.chat_template;
  return result;
}

Json generation_config_of(const GenerationConfig& generation) {
  Json result = Json::object();
  const auto& eos = generation.eos_token_id;
  if (generation.bos_token_id) result["bos_token_id"] = *generation.bos_token_id;
  if (eos.size() == 1) result["eos_token_id"] = eos[0];
  if (eos.size() > 1) result["eos_token_id"] = eos;
  if (generation.pad_token_id) result["pad_token_id"] = *generation.pad_token_id;
  return result;
}

void write_json(const fs::path& file, const Json& json) {
  write_durable_file(file, json.dump(2) + "\n");
}

/// What a HF directory says beside its weights and config.json goes along as it is.
void copy_companions(const fs::path& from, const fs::path& to) {
  constexpr std::array kNames = {"tokenizer.json",
                                 "tokenizer_config.json",
                                 "generation_config.json",
                                 "special_tokens_map.json",
                                 "added_tokens.json",
                                 "chat_template.jinja",
                                 "vocab.json",
                                 "merges.txt"};
  for (const char* const name : kNames) {
    if (fs::exists(from / name)) write_durable_file(to / name, MappedFile(from / name).bytes());
  }
}

}  // namespace

void write_hf_directory(const Pretrained& model, const fs::path& directory, at::ScalarType dtype) {
  const Json config = config_of(model, dtype);
  NewDirectory out(directory);
  write_json(out.path() / "config.json", config);
  if (fs::is_directory(model.path)) {
    copy_companions(model.path, out.path());
  } else {
    write_durable_file(out.path() / "tokenizer.json",
                       text::write_tokenizer_json(model.tokenizer->spec()));
    write_json(out.path() / "tokenizer_config.json", tokenizer_config_of(model, config));
    write_json(out.path() / "generation_config.json", generation_config_of(model.generation));
  }
  write_weights(*model.tensors, out.path() / "model.safetensors", dtype);
  out.publish();
}

}  // namespace tailor::models
