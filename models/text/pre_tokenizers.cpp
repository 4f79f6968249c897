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

// What llama.cpp does for a model that it does not know.
std::vector<Split> plain() {
  return {regex(R"([\p{P}\$\+<=>\^~\|]+)"),
          regex(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))"),
          regex(R"(\p{N}+)"), regex("[0-9][0-9][0-9]"), byte_level(false)};
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

std::vector<Split> pre_tokenizer_named(const std::string& name, const std::string& file) {
  std::string known;
  for (const auto& [candidate, kind] : kNamed) {
    known += (known.empty() ? "" : ", ") + std::string(candidate);
    if (candidate != name) continue;
    switch (kind) {
      case Named::Gpt2:
        return {byte_level(true)};
      case Named::Digits:
        return {digits(), byte_level(true)};
      case Named::Llama3:
        return {regex(kLlama3), byte_level(false)};
      case Named::Qwen2:
        return {regex(kQwen2), byte_level(false)};
      case Named::Plain:
        return plain();
    }
  }
  throw FileError(file + ": tokenizer.ggml.pre: expected one of " + known + "; found '" + name +
                  "'");
}

}  // namespace tailor::models::text
