#pragma once

#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

namespace tailor::trainer {

/// A schema that takes more steps on a text than any sane one.
class SchemaLimit : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A JSON Schema, draft 2020-12, of these keywords: type, enum, const; properties, required,
/// additionalProperties, minProperties, maxProperties; items, prefixItems, minItems, maxItems,
/// uniqueItems; minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf; minLength,
/// maxLength (code points), pattern (PCRE2's syntax); allOf, anyOf, oneOf, not; $defs, definitions
/// and local $ref ("#/$defs/x"). Annotations are passed over, `format` among them, as the draft has
/// it. Immutable and thread-safe.
class JsonSchema {
 public:
  /// Throws configs::ConfigError, beginning with `place`, where the file cannot be read, is no JSON
  /// or has a keyword that is not of those above.
  static JsonSchema read(const std::filesystem::path& file, const std::string& place);
  JsonSchema(const std::string& text, const std::string& place);
  ~JsonSchema();
  JsonSchema(JsonSchema&&) noexcept;

  /// Whether `text` is JSON that the schema accepts. Throws SchemaLimit.
  bool accepts(std::string_view text) const;

 private:
  struct Checker;
  std::unique_ptr<Checker> checker_;
};

/// What of a completion should be JSON: what follows the last </think>, without the fence where it
/// is one fenced block of Markdown, trimmed.
std::string_view json_part(std::string_view completion);

}  // namespace tailor::trainer
