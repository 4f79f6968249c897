// What is read from completions and from those who score them, from any bytes: nothing but a value,
// a fault or a SchemaLimit comes of it.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "models/text/regex.hpp"
#include "trainer/rewards/answer_text.hpp"
#include "trainer/rewards/exchange.hpp"
#include "trainer/rewards/json_schema.hpp"

namespace {

using namespace tailor::trainer;

constexpr auto kSchema = R"({"type": ["object", "array", "string", "number"], "properties": {"a":
  {"$ref": "#"}}, "additionalProperties": {"type": "string", "pattern": "^\\w*$", "maxLength": 5},
  "items": {"anyOf": [{"$ref": "#"}, {"enum": [1, "x", null]}]}, "uniqueItems": true})";

void check(const Answer& answer) {
  if (answer.value && (!std::isfinite(*answer.value) || !answer.fault.empty())) std::abort();
  if (answer.fault.size() > 2000) std::abort();  // a reason is for a terminal
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const JsonSchema schema(kSchema, "schema");
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto marked = marked_answer(text);
  if (marked && marked->content.size() > text.size()) std::abort();
  if (const auto number = answer_number(text); number && !std::isfinite(number->value))
    std::abort();
  const auto plain = normalised(text, {});
  if (normalised(plain, {}) != plain) std::abort();
  check(read_single_answer(text));
  const auto batch = read_batch_answer(text, 2);
  if (batch.fault.empty() && batch.answers.size() != 2) std::abort();
  for (const auto& answer : batch.answers) check(answer);
  try {
    schema.accepts(json_part(text));
  } catch (const SchemaLimit&) {
  } catch (const tailor::models::text::RegexLimit&) {
  }
  return 0;
}
