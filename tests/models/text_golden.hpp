#pragma once

#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "models/text/tokenizer.hpp"

namespace tailor::models::text {

inline std::string golden_text(const std::string& name) {
  std::ifstream file(std::string(TAILOR_GOLDEN) + "/text/" + name, std::ios::binary);
  if (!file) throw std::runtime_error("no golden file " + name);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline nlohmann::json golden_json(const std::string& name) {
  return nlohmann::json::parse(golden_text(name));
}

inline std::shared_ptr<const Tokenizer> golden_tokenizer(const std::string& name) {
  return make_tokenizer(parse_tokenizer_json(golden_text(name + ".json"), name + ".json"));
}

inline std::string bytes_of_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

}  // namespace tailor::models::text
