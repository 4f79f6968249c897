#include <cmath>
#include <nlohmann/json.hpp>

#include "configs/reading.hpp"

namespace tailor::configs {
namespace {

using Json = nlohmann::ordered_json;
using Type = Field::Type;

Json object_of(const Reading& reading, const std::string& path);

Json bounded(const Range& range) {
  Json out{{"type", "number"}};
  if (std::isfinite(range.min)) out[range.open_min ? "exclusiveMinimum" : "minimum"] = range.min;
  if (std::isfinite(range.max)) out[range.open_max ? "exclusiveMaximum" : "maximum"] = range.max;
  return out;
}

Json integer_of(const Field& field) {
  using Limits = std::numeric_limits<std::int64_t>;
  Json out{{"type", "integer"}};
  if (field.min != Limits::min()) out["minimum"] = field.min;
  if (field.max != Limits::max()) out["maximum"] = field.max;
  return out;
}

Json choice_json(const std::string& choice) {
  const bool boolean = kind_of_plain(choice) == Kind::Boolean;
  return boolean ? Json(choice == "true") : Json(choice);
}

Json enumeration(const std::vector<std::string>& choices) {
  Json list = Json::array();
  for (const auto& choice : choices) list.push_back(choice_json(choice));
  return {{"enum", list}};
}

Json one_or_list(const Json& item) {
  return {{"anyOf", {item, {{"type", "array"}, {"items", item}}}}};
}

Json list_of(const Json& item, bool required) {
  Json out{{"type", "array"}, {"items", item}};
  if (required) out["minItems"] = 1;
  return out;
}

Json value_of(const Reading& reading, const std::string& path, const Field& field) {
  switch (field.type) {
    case Type::Integer:
      return integer_of(field);
    case Type::Number:
      return bounded(field.range);
    case Type::Boolean:
      return {{"type", "boolean"}};
    case Type::Text:
      return {{"type", "string"}};
    case Type::Choice:
      return enumeration(field.choices);
    case Type::Choices:
      return one_or_list(enumeration(field.choices));
    case Type::Names:
      return one_or_list({{"type", "string"}, {"minLength", 1}});
    case Type::Integers:
      return one_or_list({{"type", "integer"}});
    case Type::Numbers:
      return {{"type", "object"}, {"additionalProperties", bounded(field.range)}};
    case Type::Section:
      return object_of(reading, path);
    case Type::Sections:
      return list_of(object_of(reading, path + "[0]"), field.required);
  }
  return {};
}

Json fallback_of(const Field& field) {
  if (field.type == Type::Choices) return Json(field.fallback);
  const auto& text = field.fallback.front();
  if (field.type == Type::Text) return text;
  return field.type == Type::Choice ? choice_json(text) : Json::parse(text);
}

/// A null is as good as an absent key.
Json or_null(Json schema) {
  if (schema.contains("type") && schema["type"].is_string())
    schema["type"] = {schema["type"], "null"};
  else if (schema.contains("enum"))
    schema["enum"].push_back(nullptr);
  else
    schema["anyOf"].push_back({{"type", "null"}});
  return schema;
}

Json object_of(const Reading& reading, const std::string& path) {
  const auto& section = reading.sections.at(path);
  Json properties = Json::object(), required = Json::array();
  for (const auto& [key, field] : section.fields) {
    auto schema = value_of(reading, section.path_of(key), field);
    const bool is_required = field.required || schema.contains("required");  // inside a section
    if (is_required)
      required.push_back(key);
    else
      schema = or_null(schema);
    if (!field.fallback.empty()) schema["default"] = fallback_of(field);
    properties[key] = schema;
  }
  for (const auto& [alias, key] : section.aliases) {
    if (!properties.contains(key)) continue;
    auto schema = properties[key];
    schema["deprecated"] = true;
    schema["description"] = "another name of " + key;
    properties[alias] = schema;
  }
  Json out{{"type", "object"}, {"properties", properties}, {"additionalProperties", false}};
  if (!required.empty()) out["required"] = required;
  return out;
}

}  // namespace

std::string schema_of(const Reading& reading, const std::string& title) {
  Json out{{"$schema", "https://json-schema.org/draft/2020-12/schema"}, {"title", title}};
  out.update(object_of(reading, ""));
  return out.dump(2);
}

}  // namespace tailor::configs
