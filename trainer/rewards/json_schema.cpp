#include "trainer/rewards/json_schema.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "configs/reader.hpp"
#include "models/files/file_error.hpp"
#include "models/text/regex.hpp"

namespace tailor::trainer {
namespace {

using configs::ConfigError;
using nlohmann::json;

constexpr int kMaxSchemaDepth = 200;
constexpr int kMaxNesting = 64;                // of an answer; a deeper one is not accepted
constexpr int kMaxDepth = 1000;                // of references and parts while an answer is judged
constexpr std::int64_t kMaxSteps = 1'000'000;  // subschemas tried on one answer

const std::set<std::string> kAnnotations{
    "$schema",         "$id",         "$comment", "title",     "default", "deprecated",
    "examples",        "description", "readOnly", "writeOnly", "format",  "contentEncoding",
    "contentMediaType"};
const std::set<std::string> kTypes{"null",   "boolean", "object", "array",
                                   "number", "integer", "string"};

/// What the value of a keyword has to be.
enum class Shape {
  Schema,
  Schemas,
  SchemaMap,
  Names,
  Count,
  Number,
  Pattern,
  Ref,
  Type,
  Flag,
  Any,
  List
};
const std::map<std::string, Shape> kKeywords{
    {"type", Shape::Type},
    {"enum", Shape::List},
    {"const", Shape::Any},
    {"properties", Shape::SchemaMap},
    {"required", Shape::Names},
    {"additionalProperties", Shape::Schema},
    {"minProperties", Shape::Count},
    {"maxProperties", Shape::Count},
    {"items", Shape::Schema},
    {"prefixItems", Shape::Schemas},
    {"minItems", Shape::Count},
    {"maxItems", Shape::Count},
    {"uniqueItems", Shape::Flag},
    {"minimum", Shape::Number},
    {"maximum", Shape::Number},
    {"exclusiveMinimum", Shape::Number},
    {"exclusiveMaximum", Shape::Number},
    {"multipleOf", Shape::Number},
    {"minLength", Shape::Count},
    {"maxLength", Shape::Count},
    {"pattern", Shape::Pattern},
    {"allOf", Shape::Schemas},
    {"anyOf", Shape::Schemas},
    {"oneOf", Shape::Schemas},
    {"not", Shape::Schema},
    {"$defs", Shape::SchemaMap},
    {"definitions", Shape::SchemaMap},
    {"$ref", Shape::Ref},
};

std::vector<std::string> known_keywords() {
  std::vector<std::string> out;
  for (const auto& [keyword, shape] : kKeywords) out.push_back(keyword);
  return out;
}

/// A key as a step of a JSON pointer (RFC 6901).
std::string step(const std::string& key) {
  std::string out = "/";
  for (const char c : key) out += c == '~' ? "~0" : c == '/' ? "~1" : std::string(1, c);
  return out;
}

bool is_integer(const json& value) {
  return value.is_number_integer() ||
         (value.is_number_float() && std::floor(value.get<double>()) == value.get<double>());
}

bool is_of_type(const json& value, const std::string& type) {
  if (type == "integer") return is_integer(value);
  if (type == "number") return value.is_number();
  return type == value.type_name();
}

std::size_t num_code_points(const std::string& text) {
  return static_cast<std::size_t>(
      std::ranges::count_if(text, [](char c) { return (c & 0xC0) != 0x80; }));
}

bool is_multiple(double value, double of) {
  const auto quotient = value / of;
  return std::abs(quotient - std::round(quotient)) <= 1e-9 * std::max(1.0, std::abs(quotient));
}

bool all_distinct(const json& list) {
  std::vector<std::reference_wrapper<const json>> items(list.begin(), list.end());
  std::ranges::sort(items, [](const json& a, const json& b) { return a < b; });
  return std::ranges::adjacent_find(items, [](const json& a, const json& b) { return a == b; }) ==
         items.end();
}

}  // namespace

struct JsonSchema::Checker {
  json root;
  std::string place;
  std::map<std::string, models::text::Regex> patterns;
  std::set<const json*> checked;                                // every schema within root
  std::vector<std::pair<std::string, std::string>> references;  // and where they stand

  [[noreturn]] void refuse(const std::string& at, const std::string& problem) const {
    throw ConfigError(place + ": schema at #" + at + ": " + problem);
  }

  /// Checks a schema before anything is judged by it.
  void check(const json& schema, const std::string& at, int depth = 0) {
    if (depth > kMaxSchemaDepth) refuse(at, "nested too deeply");
    checked.insert(&schema);
    if (schema.is_boolean()) return;
    if (!schema.is_object()) refuse(at, "expected a schema, found " + schema.dump().substr(0, 60));
    for (const auto& [key, value] : schema.items()) {
      if (key == "$id" && !at.empty()) refuse(at, "the keyword \"$id\" is supported at # alone");
      if (kAnnotations.contains(key)) continue;
      const auto keyword = kKeywords.find(key);
      if (keyword == kKeywords.end()) {
        const auto near = configs::nearest(key, known_keywords());
        refuse(at, "the keyword \"" + key + "\" is not supported" +
                       (near.empty() ? "" : "; did you mean \"" + near + "\"?"));
      }
      check_value(keyword->second, value, at + step(key), depth);
    }
  }

  void check_value(Shape shape, const json& value, const std::string& at, int depth) {
    const auto expect = [&](bool right, const char* what) {
      if (!right)
        refuse(at, std::string("expected ") + what + ", found " + value.dump().substr(0, 60));
    };
    const auto all_texts = [&] {
      return std::ranges::all_of(value, [](const json& item) { return item.is_string(); });
    };
    switch (shape) {
      case Shape::Schema:
        return check(value, at, depth + 1);
      case Shape::Schemas:
        expect(value.is_array() && !value.empty(), "a list of schemas");
        for (std::size_t i = 0; i < value.size(); ++i)
          check(value[i], at + '/' + std::to_string(i), depth + 1);
        return;
      case Shape::SchemaMap:
        expect(value.is_object(), "an object of schemas");
        for (const auto& [key, schema] : value.items()) check(schema, at + step(key), depth + 1);
        return;
      case Shape::Names:
        return expect(value.is_array() && all_texts(), "a list of names");
      case Shape::Count:
        return expect(value.is_number() && is_integer(value) && value.get<double>() >= 0,
                      "a count");
      case Shape::Number:
        expect(value.is_number(), "a number");
        return expect(!at.ends_with("/multipleOf") || value.get<double>() > 0, "a number above 0");
      case Shape::Pattern:
        expect(value.is_string(), "a regular expression");
        return add_pattern(value.get<std::string>(), at);
      case Shape::Ref:
        expect(value.is_string(), "a reference");
        references.emplace_back(value.get<std::string>(), at);
        return;
      case Shape::Type:
        return check_type(value, at);
      case Shape::Flag:
        return expect(value.is_boolean(), "true or false");
      case Shape::List:
        return expect(value.is_array(), "a list");
      case Shape::Any:
        return;
    }
  }

  void add_pattern(const std::string& pattern, const std::string& at) {
    try {
      patterns.try_emplace(pattern, pattern, place + ": schema at #" + at);
    } catch (const models::FileError& error) {
      throw ConfigError(error.what());
    }
  }

  void check_type(const json& value, const std::string& at) const {
    const auto is_type = [](const json& name) {
      return name.is_string() && kTypes.contains(name.get<std::string>());
    };
    const bool right =
        value.is_array() ? !value.empty() && std::ranges::all_of(value, is_type) : is_type(value);
    if (!right) refuse(at, "expected a type or a list of types, found " + value.dump());
  }

  /// After check(): a reference must name a schema, not something beside it.
  void check_references() const {
    for (const auto& [reference, at] : references) {
      if (!reference.starts_with('#'))
        refuse(at, "only references within the file (\"#/...\") are supported, found \"" +
                       reference + '"');
      if (!checked.contains(target(reference)))
        refuse(at, "there is no schema \"" + reference + '"');
    }
  }

  /// What a reference names, or null.
  const json* target(const std::string& reference) const {
    try {
      return &root.at(json::json_pointer(reference.substr(1)));
    } catch (const json::exception&) {
      return nullptr;
    }
  }

  /// One run over one answer.
  struct Run {
    const Checker& checker;
    std::int64_t steps = 0;

    bool accepts(const json& schema, const json& value, int depth);
    bool accepts_object(const json& schema, const json& value, int depth);
    bool accepts_list(const json& schema, const json& value, int depth);
    bool accepts_parts(const json& schema, const json& value, int depth);
    bool accepts_text(const json& schema, const std::string& text) const;
    static bool accepts_number(const json& schema, double value);
  };
};

bool JsonSchema::Checker::Run::accepts_number(const json& schema, double value) {
  const auto limit = [&](const char* key, auto holds) {
    const auto found = schema.find(key);
    return found == schema.end() || holds(found->get<double>());
  };
  return limit("minimum", [&](double x) { return value >= x; }) &&
         limit("maximum", [&](double x) { return value <= x; }) &&
         limit("exclusiveMinimum", [&](double x) { return value > x; }) &&
         limit("exclusiveMaximum", [&](double x) { return value < x; }) &&
         limit("multipleOf", [&](double x) { return is_multiple(value, x); });
}

namespace {

/// Whether brackets outside of strings nest at most kMaxNesting deep.
bool is_shallow(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string && c == '\\') ++i;
    if (c == '"') in_string = !in_string;
    if (in_string) continue;
    if (c == '[' || c == '{') ++depth;
    if (c == ']' || c == '}') --depth;
    if (depth > kMaxNesting) return false;
  }
  return true;
}

/// Whether `size` lies within the schema's two keywords.
bool counts(const json& schema, const char* min, const char* max, std::size_t size) {
  const auto n = static_cast<double>(size);
  return (!schema.contains(min) || n >= schema[min].get<double>()) &&
         (!schema.contains(max) || n <= schema[max].get<double>());
}

}  // namespace

bool JsonSchema::Checker::Run::accepts_text(const json& schema, const std::string& text) const {
  if (!counts(schema, "minLength", "maxLength", num_code_points(text))) return false;
  const auto pattern = schema.find("pattern");
  return pattern == schema.end() || checker.patterns.at(pattern->get<std::string>()).found_in(text);
}

bool JsonSchema::Checker::Run::accepts_object(const json& schema, const json& value, int depth) {
  if (!counts(schema, "minProperties", "maxProperties", value.size())) return false;
  if (const auto required = schema.find("required"); required != schema.end())
    for (const auto& name : *required)
      if (!value.contains(name.get<std::string>())) return false;
  const auto properties = schema.find("properties");
  const auto others = schema.find("additionalProperties");
  for (const auto& [key, item] : value.items()) {
    const json* known = nullptr;
    if (properties != schema.end())
      if (const auto found = properties->find(key); found != properties->end()) known = &*found;
    if (known == nullptr && others != schema.end()) known = &*others;
    if (known != nullptr && !accepts(*known, item, depth)) return false;
  }
  return true;
}

bool JsonSchema::Checker::Run::accepts_list(const json& schema, const json& value, int depth) {
  if (!counts(schema, "minItems", "maxItems", value.size())) return false;
  std::size_t i = 0;
  if (const auto first = schema.find("prefixItems"); first != schema.end())
    for (; i < std::min(first->size(), value.size()); ++i)
      if (!accepts((*first)[i], value[i], depth)) return false;
  if (const auto items = schema.find("items"); items != schema.end())
    for (; i < value.size(); ++i)
      if (!accepts(*items, value[i], depth)) return false;
  return !schema.value("uniqueItems", false) || all_distinct(value);
}

/// allOf, anyOf, oneOf, not, $ref.
bool JsonSchema::Checker::Run::accepts_parts(const json& schema, const json& value, int depth) {
  const auto count = [&](const char* key, std::size_t enough) {
    std::size_t n = 0;
    for (const auto& part : schema[key])
      if (n < enough && accepts(part, value, depth)) ++n;
    return n;
  };
  if (schema.contains("$ref") &&
      !accepts(*checker.target(schema["$ref"].get<std::string>()), value, depth))
    return false;
  if (schema.contains("allOf"))
    for (const auto& part : schema["allOf"])
      if (!accepts(part, value, depth)) return false;
  if (schema.contains("anyOf") && count("anyOf", 1) == 0) return false;
  if (schema.contains("oneOf") && count("oneOf", 2) != 1) return false;
  return !schema.contains("not") || !accepts(schema["not"], value, depth);
}

bool JsonSchema::Checker::Run::accepts(const json& schema, const json& value, int depth) {
  if (++steps > kMaxSteps)
    throw SchemaLimit("the schema was given up after " + std::to_string(kMaxSteps) + " steps");
  if (depth > kMaxDepth)
    throw SchemaLimit("the schema's references nest deeper than " + std::to_string(kMaxDepth));
  if (schema.is_boolean()) return schema.get<bool>();
  if (const auto type = schema.find("type"); type != schema.end()) {
    const auto fits = [&](const json& name) { return is_of_type(value, name.get<std::string>()); };
    if (type->is_array() ? std::ranges::none_of(*type, fits) : !fits(*type)) return false;
  }
  if (const auto only = schema.find("const"); only != schema.end() && *only != value) return false;
  if (const auto any = schema.find("enum"); any != schema.end())
    if (std::ranges::find(*any, value) == any->end()) return false;
  if (value.is_number() && !accepts_number(schema, value.get<double>())) return false;
  if (value.is_string() && !accepts_text(schema, value.get_ref<const std::string&>())) return false;
  if (value.is_object() && !accepts_object(schema, value, depth + 1)) return false;
  if (value.is_array() && !accepts_list(schema, value, depth + 1)) return false;
  return accepts_parts(schema, value, depth + 1);
}

JsonSchema::JsonSchema(const std::string& text, const std::string& place)
    : checker_(std::make_unique<Checker>()) {
  checker_->place = place;
  try {
    checker_->root = json::parse(text);
  } catch (const json::exception& error) {
    throw ConfigError(place + ": no JSON: " + error.what());
  }
  checker_->check(checker_->root, "");
  checker_->check_references();
}
JsonSchema::~JsonSchema() = default;
JsonSchema::JsonSchema(JsonSchema&&) noexcept = default;

JsonSchema JsonSchema::read(const std::filesystem::path& file, const std::string& place) {
  std::ifstream stream(file, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  if (!stream) throw ConfigError(place + ": cannot be read: " + file.string());
  return {text, place + ": " + file.string()};
}

bool JsonSchema::accepts(std::string_view text) const {
  if (!is_shallow(text)) return false;
  const auto value = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return false;
  return Checker::Run{.checker = *checker_}.accepts(checker_->root, value, 0);
}

std::string_view json_part(std::string_view completion) {
  constexpr auto kNone = std::string_view::npos;
  constexpr std::string_view kEndOfThought = "</think>", kFence = "```", kSpace = " \t\r\n";
  const auto trim = [&](std::string_view text) {
    const auto begin = text.find_first_not_of(kSpace);
    return begin == kNone ? std::string_view()
                          : text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
  };
  if (const auto end = completion.rfind(kEndOfThought); end != kNone)
    completion.remove_prefix(end + kEndOfThought.size());
  auto part = trim(completion);
  const auto line_end = part.find('\n');
  const bool fenced = part.size() > 2 * kFence.size() && part.starts_with(kFence) &&
                      part.ends_with(kFence) && line_end != kNone &&
                      line_end + kFence.size() < part.size();
  if (!fenced) return part;
  part.remove_prefix(line_end + 1);
  part.remove_suffix(kFence.size());
  return trim(part);
}

}  // namespace tailor::trainer
