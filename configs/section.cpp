#include <algorithm>
#include <cctype>
#include <cstddef>
#include <type_traits>
#include <utility>

#include "configs/number_text.hpp"
#include "configs/reading.hpp"

namespace tailor::configs {
namespace {

using Type = Field::Type;

std::string expected_integer(std::int64_t min, std::int64_t max) {
  using Limits = std::numeric_limits<std::int64_t>;
  if (min == 1 && max == Limits::max()) return "expected a positive integer";
  std::string text = "expected an integer";
  if (min != Limits::min() && max != Limits::max())
    return text + " from " + std::to_string(min) + " to " + std::to_string(max);
  if (min != Limits::min()) return text + " of at least " + std::to_string(min);
  if (max != Limits::max()) return text + " of at most " + std::to_string(max);
  return text;
}

std::string listed(std::initializer_list<const char*> choices) {
  std::string text = choices.size() > 1 ? "expected one of " : "expected ";
  for (const auto* choice : choices)
    text += (choice == *choices.begin() ? "" : ", ") + std::string(choice);
  return text;
}

/// The choice that a value names, or null.
const char* chosen(const Value& value, std::initializer_list<const char*> choices) {
  if (value.kind == Kind::List || value.kind == Kind::Map) return nullptr;
  auto text = value.text;
  if (value.kind == Kind::Boolean) text[0] = static_cast<char>(std::tolower(text[0]));
  for (const std::string_view choice : choices) {
    const bool is_boolean = kind_of_plain(choice) == Kind::Boolean;
    if (is_boolean == (value.kind == Kind::Boolean) && text == choice) return choice.data();
  }
  return nullptr;
}

std::string suggested(const Value& value, std::initializer_list<const char*> choices) {
  if (choices.size() == 1) return "";
  const auto near = nearest(value.text, {choices.begin(), choices.end()});
  return near.empty() ? "" : "; did you mean \"" + near + "\"?";
}

/// Without its quotes the text would be another kind of value.
bool quotes_matter(const Value& value) {
  return value.quoted && !value.text.empty() && kind_of_plain(value.text) != Kind::Text;
}

std::vector<std::string> strings(std::initializer_list<const char*> choices) {
  return {choices.begin(), choices.end()};
}

template <typename T>
std::vector<std::string> fallback_text(const std::optional<T>& fallback) {
  if (!fallback) return {};
  if constexpr (std::is_same_v<T, double>) return {number_text(*fallback)};
  if constexpr (std::is_same_v<T, bool>) return {*fallback ? "true" : "false"};
  if constexpr (std::is_same_v<T, std::int64_t>) return {std::to_string(*fallback)};
  if constexpr (std::is_same_v<T, std::string>) return {*fallback};
}

}  // namespace

const Value* Section::Impl::peek(const std::string& key) const {
  const auto alias = state.renamed.find(key);
  const auto& name = alias == state.renamed.end() ? key : alias->second;
  const auto* value = state.map == nullptr ? nullptr : state.map->find(name);
  return value == nullptr || value->kind == Kind::Null ? nullptr : value;
}

const Value* Section::Impl::find(const std::string& key) {
  state.asked.insert(key);
  return peek(key);
}

void Section::Impl::describe(const std::string& key, Field field) {
  if (!reading->describes) return;
  if (state.optional.contains(key)) field.required = false;
  const auto known = std::ranges::find(state.fields, key, &std::pair<std::string, Field>::first);
  if (known == state.fields.end()) state.fields.emplace_back(key, std::move(field));
}

void Section::Impl::note(const Mark& mark, const std::string& key, const std::string& text) {
  state.failed.insert(key.substr(0, key.find_first_of("[.")));
  reading->note(mark, state.path_of(key), text);
}

void Section::Impl::missing(const std::string& key, const std::string& expected) {
  if (state.broken) return;
  const auto* null = state.map == nullptr ? nullptr : state.map->find(key);
  note(null == nullptr ? state.mark : null->key_mark, key, "missing; " + expected);
}

void Section::Impl::wrong(const std::string& key, const Value& value, const std::string& expected) {
  note(value.mark, key, expected + found(value) + (quotes_matter(value) ? " in quotes" : ""));
}

std::shared_ptr<Section::Impl> Section::Impl::child(const std::string& path, const Value* map,
                                                    const Mark& mark, bool broken) const {
  auto& section = reading->sections[path];
  section.path = path;
  section.map = map;
  section.mark = mark;
  section.broken = broken;
  return std::make_shared<Impl>(Impl{reading, section});
}

bool Section::has(const std::string& key) const {
  if (!impl_->reading->describes) return impl_->peek(key) != nullptr;
  impl_->state.optional.insert(key);
  return true;
}

bool Section::is_list(const std::string& key) const {
  const auto* value = impl_->peek(key);
  return value != nullptr && value->kind == Kind::List;
}
bool Section::is_text(const std::string& key) const {
  const auto* value = impl_->peek(key);
  return value != nullptr && value->kind == Kind::Text;
}
bool Section::is_boolean(const std::string& key) const {
  const auto* value = impl_->peek(key);
  return value != nullptr && value->kind == Kind::Boolean;
}
bool Section::is_integer(const std::string& key) const {
  const auto* value = impl_->peek(key);
  return value != nullptr && value->kind == Kind::Number && configs::is_integer(value->text);
}

bool Section::is_empty(const std::string& key) const {
  const auto* value = impl_->peek(key);
  if (value == nullptr) return true;
  if (value->kind == Kind::List || value->kind == Kind::Map) return value->children.empty();
  if (value->kind == Kind::Boolean) return value->text[0] == 'f' || value->text[0] == 'F';
  return value->kind == Kind::Text && value->text.empty();
}

bool Section::failed(const std::string& key) const { return impl_->state.failed.contains(key); }

std::int64_t Section::integer(const std::string& key, std::optional<std::int64_t> fallback,
                              std::int64_t min, std::int64_t max) {
  impl_->describe(key, {.type = Type::Integer,
                        .required = !fallback,
                        .fallback = fallback_text(fallback),
                        .min = min,
                        .max = max});
  const auto* value = impl_->find(key);
  if (value == nullptr && fallback) return *fallback;
  if (value != nullptr)
    if (const auto number = integer_of(*value); number && *number >= min && *number <= max)
      return *number;
  const auto expected = expected_integer(min, max);
  value == nullptr ? impl_->missing(key, expected) : impl_->wrong(key, *value, expected);
  return std::clamp<std::int64_t>(1, min, max);
}

std::int64_t Section::positive(const std::string& key, std::optional<std::int64_t> fallback) {
  return integer(key, fallback, 1);
}

double Section::number(const std::string& key, std::optional<double> fallback, Range range) {
  impl_->describe(key, {.type = Type::Number,
                        .required = !fallback,
                        .fallback = fallback_text(fallback),
                        .range = range});
  const auto* value = impl_->find(key);
  if (value == nullptr && fallback) return *fallback;
  if (value != nullptr)
    if (const auto number = number_of(*value); number && within(*number, range)) return *number;
  const auto expected = expected_number(range);
  value == nullptr ? impl_->missing(key, expected) : impl_->wrong(key, *value, expected);
  return std::clamp(1.0, range.min, range.max);
}

bool Section::boolean(const std::string& key, std::optional<bool> fallback) {
  impl_->describe(
      key, {.type = Type::Boolean, .required = !fallback, .fallback = fallback_text(fallback)});
  const auto* value = impl_->find(key);
  if (value == nullptr && fallback) return *fallback;
  if (value != nullptr && value->kind == Kind::Boolean)
    return value->text[0] == 't' || value->text[0] == 'T';
  constexpr auto kExpected = "expected true or false";
  value == nullptr ? impl_->missing(key, kExpected) : impl_->wrong(key, *value, kExpected);
  return false;
}

std::string Section::text(const std::string& key, std::optional<std::string> fallback) {
  impl_->describe(key,
                  {.type = Type::Text, .required = !fallback, .fallback = fallback_text(fallback)});
  const auto* value = impl_->find(key);
  if (value == nullptr && fallback) return *fallback;
  if (value == nullptr) {
    impl_->missing(key, "expected text");
    return "";
  }
  if (value->kind == Kind::Text) return value->text;
  const bool scalar = value->kind == Kind::Number || value->kind == Kind::Boolean;
  impl_->wrong(key, *value,
               scalar ? "expected text (in quotes, if that is meant)" : "expected text");
  return "";
}

std::string Section::choice(const std::string& key, std::initializer_list<const char*> choices,
                            std::optional<std::string> fallback) {
  impl_->describe(key, {.type = Type::Choice,
                        .required = !fallback,
                        .fallback = fallback_text(fallback),
                        .choices = strings(choices)});
  const auto* value = impl_->find(key);
  if (value == nullptr && fallback) return *fallback;
  if (value == nullptr) {
    impl_->missing(key, listed(choices));
  } else if (const auto* choice = chosen(*value, choices)) {
    return choice;
  } else {
    impl_->note(value->mark, key,
                listed(choices) + found(*value) +
                    (quotes_matter(*value) ? " in quotes" : suggested(*value, choices)));
  }
  return *choices.begin();
}

std::vector<std::string> Section::choices(const std::string& key,
                                          std::initializer_list<const char*> choices,
                                          std::vector<std::string> fallback) {
  impl_->describe(key, {.type = Type::Choices, .fallback = fallback, .choices = strings(choices)});
  const auto* value = impl_->find(key);
  if (value == nullptr) return fallback;
  const bool list = value->kind == Kind::List;
  std::vector<std::string> out;
  for (std::size_t i = 0; i < (list ? value->children.size() : 1); ++i) {
    const auto& item = list ? value->children[i] : *value;
    if (const auto* choice = chosen(item, choices)) {
      out.emplace_back(choice);
      continue;
    }
    const auto where = list ? key + '[' + std::to_string(i) + ']' : key;
    impl_->note(item.mark, where, listed(choices) + found(item) + suggested(item, choices));
  }
  return out;
}

}  // namespace tailor::configs
