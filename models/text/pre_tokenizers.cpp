#include <array>
#include <string_view>

#include "models/files/file_error.hpp"
#include "models/text/tokenizer.hpp"

namespace tailor::models::text {
namespace {

using Split = TokenizerSpec::Split;

// The expressions of the models' own tokenizer.json files.
constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

Split regex(const char* pattern) {
  Split split{Split::Kind::Regex};
  split.pattern = pattern;
  return split;
}
Split digits() {
  Split split{Split::Kind::Digits};
  split.individual_digits = true;
  return split;
}
Split byte_level(bool use_regex) {
  Split split{Split::Kind::ByteLevel};
  split.use_regex = use_regex;
  return split;
}

struct Named {
  std::string_view name;
  enum { Gpt2, Digits, Llama3, Qwen2, Plain } kind;
};
constexpr std::array<Named, 13> kNamed{{
    {"gpt-2", Named::Gpt2},
    {"gpt2", Named::Gpt2},
    {"phi-2", Named::Gpt2},
    {"smollm", Named::Digits},
    {"starcoder", Named::Digits},
    {"refact", Named::Digits},
    {"codeshell", Named::Digits},
    {"llama-bpe", Named::Llama3},
    {"llama3", Named::Llama3},
    {"llama-v3", Named::Llama3},
    {"qwen2", Named::Qwen2},
    {"deepseek-r1-qwen", Named::Qwen2},
    {"default", Named::Plain},
}};

}  // namespace

void set_pre_tokenizer_named(const std::string& name, const std::string& file,
                             TokenizerSpec& spec) {
  std::string known;
  for (const auto& [candidate, kind] : kNamed) {
    known += (known.empty() ? "" : ", ") + std::string(candidate);
    if (candidate != name) continue;
    spec.ignore_merges = kind == Named::Llama3;
    spec.nfc = name == "qwen2";
    switch (kind) {
      case Named::Gpt2:
        spec.pre_tokenizer = {byte_level(true)};
        return;
      case Named::Digits:
        spec.pre_tokenizer = {digits(), byte_level(true)};
        return;
      case Named::Llama3:
        spec.pre_tokenizer = {regex(kLlama3), byte_level(false)};
        return;
      case Named::Qwen2:
        spec.pre_tokenizer = {regex(kQwen2), byte_level(false)};
        return;
      case Named::Plain:  // what llama.cpp does for a model that it does not know
        spec.pre_tokenizer = {regex(R"([\p{P}\$\+<=>\^~\|]+)"),
                              regex(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+)"
                                    R"(| ?[^\s\p{L}\p{N}]+|\s+(?!\S))"),
                              regex(R"(\p{N}+)"), regex("[0-9][0-9][0-9]"), byte_level(false)};
        return;
    }
  }
  throw FileError(file + ": tokenizer.ggml.pre: expected one of " + known + "; found '" + name +
                  "'");
}

std::vector<Split> pre_tokenizer_named(const std::string& name, const std::string& file) {
  TokenizerSpec spec;
  set_pre_tokenizer_named(name, file, spec);
  return spec.pre_tokenizer;
}

}  // namespace tailor::models::text
