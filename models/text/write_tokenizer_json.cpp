#include <algorithm>
#include <nlohmann/json.hpp>

#include "models/files/file_error.hpp"
#include "models/text/tokenizer_json.hpp"

namespace tailor::models::text {
namespace {

using nlohmann::ordered_json;

std::string quoted(const std::string& text) {
  try {
    return ordered_json(text).dump();
  } catch (const ordered_json::type_error&) {
    throw FileError("a token is not valid UTF-8, which tokenizer.json cannot hold");
  }
}

ordered_json byte_level(bool add_prefix_space, bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", add_prefix_space},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

ordered_json pre_tokenizer(const TokenizerSpec& spec) {
  using Kind = TokenizerSpec::Split::Kind;
  auto steps = ordered_json::array();
  for (const auto& split : spec.pre_tokenizer) {
    if (split.kind == Kind::ByteLevel) {
      steps.push_back(byte_level(split.add_prefix_space, split.use_regex));
    } else if (split.kind == Kind::Digits) {
      steps.push_back({{"type", "Digits"}, {"individual_digits", split.individual_digits}});
    } else {
      steps.push_back({{"type", "Split"},
                       {"pattern", {{"Regex", split.pattern}}},
                       {"behavior", "Isolated"},
                       {"invert", false}});
    }
  }
  return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

std::string text_of(const TokenizerSpec& spec, std::int64_t id) {
  for (const auto& token : spec.added_tokens) {
    if (token.id == id) return token.content;
  }
  if (id < 0 || static_cast<std::size_t>(id) >= spec.vocab.size()) {
    throw FileError("special token id " + std::to_string(id) + " is not in the vocabulary");
  }
  return spec.vocab[static_cast<std::size_t>(id)];
}

ordered_json post_processor(const TokenizerSpec& spec) {
  if (spec.prefix_ids.empty() && spec.suffix_ids.empty()) return byte_level(true, true);
  auto tokens = ordered_json::object();
  const auto special = [&](std::int64_t id, int type_id) -> ordered_json {
    const std::string text = text_of(spec, id);
    tokens[text] = {{"id", text}, {"ids", {id}}, {"tokens", {text}}};
    return {{"SpecialToken", {{"id", text}, {"type_id", type_id}}}};
  };
  const auto surround = [&](ordered_json& out, const char* sequence, int type_id) {
    for (const auto id : spec.prefix_ids) out.push_back(special(id, type_id));
    out.push_back({{"Sequence", {{"id", sequence}, {"type_id", type_id}}}});
    for (const auto id : spec.suffix_ids) out.push_back(special(id, type_id));
  };
  auto single = ordered_json::array(), pair = ordered_json::array();
  surround(single, "A", 0);
  surround(pair, "A", 0);
  surround(pair, "B", 1);
  return {{"type", "TemplateProcessing"},
          {"single", std::move(single)},
          {"pair", std::move(pair)},
          {"special_tokens", std::move(tokens)}};
}

ordered_json added_tokens(const TokenizerSpec& spec) {
  auto list = ordered_json::array();
  for (const auto& token : spec.added_tokens) {
    list.push_back({{"id", token.id},
                    {"content", token.content},
                    {"single_word", token.single_word},
                    {"lstrip", token.lstrip},
                    {"rstrip", token.rstrip},
                    {"normalized", token.normalized},
                    {"special", token.special}});
  }
  return list;
}

// The vocabulary, with the added tokens where one of them would get another id behind it.
std::vector<std::string> complete_vocab(const TokenizerSpec& spec) {
  auto vocab = spec.vocab;
  const auto& added = spec.added_tokens;
  const auto keeps_id = [](const AddedToken& token, std::int64_t id) { return token.id == id; };
  const auto assigned = assigned_ids(vocab, added);
  if (std::equal(added.begin(), added.end(), assigned.begin(), keeps_id)) return vocab;
  for (const auto& token : added) {
    const std::string place = "added token '" + token.content + "': id " + std::to_string(token.id);
    const auto id = static_cast<std::size_t>(token.id);
    if (token.id < 0 || id >= 2 * (spec.vocab.size() + added.size())) {
      throw FileError(place + " lies far behind the vocabulary of " +
                      std::to_string(spec.vocab.size()) + " tokens");
    }
    if (id >= vocab.size()) vocab.resize(id + 1);
    if (!vocab[id].empty() && vocab[id] != token.content) {
      throw FileError(place + " is that of '" + vocab[id] + "'");
    }
    vocab[id] = token.content;
  }
  return vocab;
}

}  // namespace

// Vocabulary and merges are put together by hand: an ordered object searches all its members at
// every insertion.
std::string write_tokenizer_json(const TokenizerSpec& spec) {
  const auto vocab = complete_vocab(spec);
  const ordered_json head = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", added_tokens(spec)},
      {"normalizer", spec.nfc ? ordered_json({{"type", "NFC"}}) : ordered_json(nullptr)},
      {"pre_tokenizer", pre_tokenizer(spec)},
      {"post_processor", post_processor(spec)},
      {"decoder", byte_level(true, true)}};
  std::string out;
  try {
    out = head.dump(2);
  } catch (const ordered_json::type_error&) {
    throw FileError("an added token is not valid UTF-8, which tokenizer.json cannot hold");
  }
  out.erase(out.rfind("\n}"));
  // An unknown token would stand for bytes that the vocabulary lacks, which here have none.
  out += R"(,
  "model": {
    "type": "BPE",
    "dropout": null,
    "unk_token": null,
    "continuing_subword_prefix": null,
    "end_of_word_suffix": null,
    "fuse_unk": false,
    "byte_fallback": false,
    "ignore_merges": )";
  out += spec.ignore_merges ? "true" : "false";
  out += ",\n    \"vocab\": {";
  const char* separator = "\n      ";
  for (std::size_t id = 0; id < vocab.size(); ++id) {
    if (vocab[id].empty()) continue;
    out += separator + quoted(vocab[id]) + ": " + std::to_string(id);
    separator = ",\n      ";
  }
  out += "\n    },\n    \"merges\": [";
  separator = "\n      ";
  for (const auto& [left, right] : spec.merges) {
    out += separator + ("[" + quoted(left)) + ", " + quoted(right) + "]";
    separator = ",\n      ";
  }
  return out + "\n    ]\n  }\n}\n";
}

}  // namespace tailor::models::text
