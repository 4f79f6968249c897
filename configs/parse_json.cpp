#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "configs/parse.hpp"
#include "configs/reader.hpp"
#include "configs/tree_builder.hpp"

namespace tailor::configs {
namespace {

/// "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error while ..." of
/// nlohmann-json 3.11 as ":1:2: syntax error while ...". The message quotes the text: it may be
/// long.
std::string placed(std::string text) {
  constexpr std::size_t kMaxBytes = 300;
  const auto line = text.find("line "), column = text.find(", column "), end = text.find(": ");
  if (line < column && column < end && end != std::string::npos)
    text = ':' + text.substr(line + 5, column - line - 5) + ':' +
           text.substr(column + 9, end - column - 9) + text.substr(end);
  else
    text = ": " + text;
  if (text.size() > kMaxBytes) text = text.substr(0, kMaxBytes) + "...";
  return text;
}

/// The events of nlohmann-json become a Value: unlike its documents they show keys given twice, and
/// numbers stay as written.
class Handler final : public nlohmann::json_sax<nlohmann::json> {
 public:
  TreeBuilder tree;
  std::string error;

  bool null() override { return scalar(Kind::Null, ""); }
  bool boolean(bool value) override { return scalar(Kind::Boolean, value ? "true" : "false"); }
  bool number_integer(std::int64_t value) override {
    return scalar(Kind::Number, std::to_string(value));
  }
  bool number_unsigned(std::uint64_t value) override {
    return scalar(Kind::Number, std::to_string(value));
  }
  bool number_float(double, const std::string& text) override { return scalar(Kind::Number, text); }
  bool string(std::string& text) override { return scalar(Kind::Text, std::move(text), true); }
  bool binary(nlohmann::json::binary_t&) override { return false; }  // not in JSON text
  bool start_object(std::size_t) override { return open(Kind::Map); }
  bool start_array(std::size_t) override { return open(Kind::List); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(std::string& name) override {
    tree.key(std::move(name), at());
    return true;
  }

  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& e) override {
    error = placed(e.what());
    return false;
  }

 private:
  Mark at() const { return {.order = tree.count()}; }

  bool scalar(Kind kind, std::string text, bool quoted = false) {
    tree.add({.kind = kind, .quoted = quoted, .mark = at(), .text = std::move(text)});
    return true;
  }
  bool open(Kind kind) {
    tree.open(kind, at());
    return true;
  }
  bool close() {
    tree.close();
    return true;
  }
};

}  // namespace

Value parse_json(const std::string& text, const std::string& file) {
  Handler document;
  try {
    if (!nlohmann::json::sax_parse(text, &document)) throw ConfigError(file + document.error);
  } catch (const std::length_error& e) {
    throw ConfigError(file + ": " + e.what());
  }
  return document.tree.take();
}

}  // namespace tailor::configs
