#include "models/files/hf_directory.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "models/files/fused_experts.hpp"
#include "models/files/mapped_file.hpp"
#include "models/files/safetensors.hpp"

namespace tailor::models {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

/// A published JSON file: an object.
struct JsonFile {
  std::string file;
  Json object = Json::object();

  [[noreturn]] void fail(const std::string& key, const std::string& problem) const {
    throw FileError(file + ": " + key + ": " + problem);
  }
};

JsonFile parse_object(const std::string& text, const fs::path& file) {
  JsonFile result{file.string()};
  try {
    result.object = Json::parse(text);
  } catch (const Json::parse_error& error) {
    const std::size_t at = std::min(error.byte, text.size());
    const auto line =
        1 + std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n');
    throw FileError(result.file + ":" + std::to_string(line) + ": no JSON at byte " +
                    std::to_string(error.byte));
  }
  if (!result.object.is_object()) throw FileError(result.file + ": expected a JSON object");
  return result;
}

/// An empty object where there is no such file.
JsonFile read_optional(const fs::path& file) {
  if (!fs::exists(file)) return {file.string()};
  return parse_object(read_text_file(file), file);
}

std::vector<std::int64_t> token_ids(const JsonFile& json, const std::string& key) {
  const auto found = json.object.find(key);
  if (found == json.object.end() || found->is_null()) return {};
  const auto one = [&](const Json& value) {
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > INT32_MAX) {
      json.fail(key, "expected a token's id or a list of them, found " + value.dump());
    }
    return value.get<std::int64_t>();
  };
  if (!found->is_array()) return {one(*found)};
  std::vector<std::int64_t> ids;
  for (const Json& value : *found) ids.push_back(one(value));
  return ids;
}

std::optional<std::int64_t> token_id(const JsonFile& json, const std::string& key) {
  const auto ids = token_ids(json, key);
  if (ids.empty()) return {};
  return ids[0];
}

/// A special token of tokenizer_config.json: a text, or an object with its `content`.
std::optional<std::string> token_text(const JsonFile& json, const std::string& key) {
  const auto found = json.object.find(key);
  if (found == json.object.end() || found->is_null()) return {};
  const Json& value = found->is_object() ? found->value("content", Json()) : *found;
  if (!value.is_string()) json.fail(key, "expected a text");
  return value.get<std::string>();
}

std::optional<std::int64_t> named_token(const JsonFile& json, const std::string& key,
                                        const text::TokenizerSpec& spec) {
  const auto text = token_text(json, key);
  if (!text) return {};
  for (const text::AddedToken& token : spec.added_tokens) {
    if (token.content == *text) return token.id;
  }
  const auto found = std::find(spec.vocab.begin(), spec.vocab.end(), *text);
  if (found == spec.vocab.end()) {
    json.fail(key, in_quotes(*text) + " is no token of tokenizer.json");
  }
  return found - spec.vocab.begin();
}

std::shared_ptr<const text::Tokenizer> read_tokenizer(const fs::path& file,
                                                      const JsonFile& config) {
  if (!fs::exists(file)) {
    throw FileError(file.string() + ": missing; the tokenizer is read from this file alone");
  }
  text::TokenizerSpec spec = text::parse_tokenizer_json(read_text_file(file), file.string());
  spec.bos_id = named_token(config, "bos_token", spec);
  spec.eos_id = named_token(config, "eos_token", spec);
  spec.pad_id = named_token(config, "pad_token", spec);
  spec.unk_id = named_token(config, "unk_token", spec);
  return text::make_tokenizer(std::move(spec));
}

/// chat_template.jinja, or the text in tokenizer_config.json, or of its named ones "default".
std::string read_chat_template(const fs::path& directory, const JsonFile& config) {
  const fs::path file = directory / "chat_template.jinja";
  if (fs::exists(file)) return read_text_file(file);
  const auto found = config.object.find("chat_template");
  if (found == config.object.end() || found->is_null()) return "";
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_array()) config.fail("chat_template", "expected a text or a list");
  for (const Json& entry : *found) {
    if (!entry.is_object() || !entry.value("name", Json()).is_string() ||
        !entry.value("template", Json()).is_string()) {
      config.fail("chat_template", "expected a list of objects with name and template");
    }
    if (entry["name"] == "default") return entry["template"].get<std::string>();
  }
  return "";
}

GenerationConfig read_generation(const fs::path& directory, const JsonFile& config,
                                 const text::TokenizerSpec& tokenizer) {
  const JsonFile generation = read_optional(directory / "generation_config.json");
  GenerationConfig result;
  result.eos_token_id = token_ids(generation, "eos_token_id");
  if (result.eos_token_id.empty()) result.eos_token_id = token_ids(config, "eos_token_id");
  if (result.eos_token_id.empty() && tokenizer.eos_id) result.eos_token_id = {*tokenizer.eos_id};
  const auto first_of = [&](const char* key, std::optional<std::int64_t> of_tokenizer) {
    if (const auto id = token_id(generation, key)) return id;
    if (const auto id = token_id(config, key)) return id;
    return of_tokenizer;
  };
  result.bos_token_id = first_of("bos_token_id", tokenizer.bos_id);
  result.pad_token_id = first_of("pad_token_id", tokenizer.pad_id);
  return result;
}

}  // namespace

std::shared_ptr<const TensorSource> open_hf_weights(const fs::path& directory) {
  const fs::path single = directory / "model.safetensors";
  const fs::path index = directory / "model.safetensors.index.json";
  if (fs::exists(single)) return open_safetensors(single);
  if (fs::exists(index)) return open_sharded_safetensors(index);
  std::string found;
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".bin") || name.ends_with(".pth") || name.ends_with(".gguf")) {
      found = "; found " + name +
              (name.ends_with(".gguf") ? ": name that file itself" : ", which is not supported");
    }
  }
  throw FileError(directory.string() +
                  ": expected model.safetensors or model.safetensors.index.json" + found);
}

Pretrained open_hf_directory(const fs::path& directory) {
  const fs::path config_file = directory / "config.json";
  if (!fs::exists(config_file)) {
    const bool is_adapter = fs::exists(directory / "adapter_config.json");
    throw FileError(directory.string() + ": no config.json" +
                    (is_adapter ? "; this is an adapter, not a model" : ""));
  }
  Pretrained model;
  model.path = directory;
  model.config_json = read_text_file(config_file);
  model.config_file = config_file.string();
  const JsonFile config = parse_object(model.config_json, config_file);
  const auto model_type = config.object.find("model_type");
  const bool is_text = model_type != config.object.end() && model_type->is_string();
  model.tensors = split_fused_experts(open_hf_weights(directory),
                                      is_text ? model_type->get<std::string>() : "");
  const JsonFile tokenizer_config = read_optional(directory / "tokenizer_config.json");
  model.tokenizer = read_tokenizer(directory / "tokenizer.json", tokenizer_config);
  model.chat_template = read_chat_template(directory, tokenizer_config);
  model.generation = read_generation(directory, config, model.tokenizer->spec());
  return model;
}

}  // namespace tailor::models
