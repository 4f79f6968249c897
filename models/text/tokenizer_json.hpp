#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/text/tokenizer.hpp"

namespace tailor::models::text {

/// tokenizer.json taken apart: the two large members of `model` apart from the rest.
struct TokenizerDocument {
  std::vector<std::string> vocab;  // by id
  std::vector<std::pair<std::string, std::string>> merges;
  bool has_vocab = false, has_merges = false;
  std::string rest;  // the document without them, as JSON
};

/// Throws models::FileError where `json` is no JSON object or vocabulary and merges are malformed.
TokenizerDocument read_tokenizer_document(std::string_view json, const std::string& file);

/// The ids that HF tokenizers gives to added tokens, whatever their file says: that of the
/// vocabulary for a text that stands there, otherwise the next one behind.
std::vector<std::int64_t> assigned_ids(const std::vector<std::string>& vocab,
                                       const std::vector<AddedToken>& added_tokens);

}  // namespace tailor::models::text
