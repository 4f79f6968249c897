#include <cmath>
#include <cstddef>
#include <utility>

#include "configs/number_text.hpp"
#include "configs/reading.hpp"

namespace tailor::configs {
namespace {

using Type = Field::Type;

std::string item(const std::string& key, std::size_t i) {
  return key + '[' + std::to_string(i) + ']';
}

/// "r:16" is one word in YAML.
std::string expected_section(const Value& value) {
  const bool no_space =
      value.kind == Kind::Text && !value.quoted && value.text.find(':') != std::string::npos;
  return no_space ? "expected a section (a colon needs a space behind it)" : "expected a section";
}

}  // namespace

Section Section::section(const std::string& key, bool required) {
  impl_->describe(key, {.type = Type::Section, .required = required});
  const auto* value = impl_->find(key);
  const bool is_map = value != nullptr && value->kind == Kind::Map;
  if (value != nullptr && !is_map) impl_->wrong(key, *value, expected_section(*value));
  if (value == nullptr && required) impl_->missing(key, "expected a section");
  const bool broken = impl_->state.broken || (!is_map && (required || value != nullptr));
  return Section(impl_->child(impl_->state.path_of(key), is_map ? value : nullptr,
                              is_map ? value->mark : impl_->state.mark, broken));
}

std::vector<Section> Section::sections(const std::string& key, bool required) {
  impl_->describe(key, {.type = Type::Sections, .required = required});
  constexpr auto kExpected = "expected a list of sections";
  const auto* value = impl_->find(key);
  const auto path = impl_->state.path_of(key);
  std::vector<Section> out;
  if (impl_->reading->describes) out.emplace_back(impl_->child(item(path, 0), nullptr, {}, false));
  if (value == nullptr) {
    if (required) impl_->missing(key, kExpected);
    return out;
  }
  if (value->kind != Kind::List) {
    impl_->wrong(key, *value, kExpected);
    return out;
  }
  if (required && value->children.empty())
    impl_->note(value->mark, key, std::string(kExpected) + ", found an empty list");
  for (std::size_t i = 0; i < value->children.size(); ++i) {
    const auto& child = value->children[i];
    if (child.kind == Kind::Map)
      out.emplace_back(impl_->child(item(path, i), &child, child.mark, false));
    else
      impl_->wrong(item(key, i), child, "expected a section");
  }
  return out;
}

std::vector<std::string> Section::names(const std::string& key, bool required) {
  impl_->describe(key, {.type = Type::Names, .required = required});
  constexpr auto kExpected = "expected a name or a list of names";
  const auto* value = impl_->find(key);
  if (value == nullptr) {
    if (required) impl_->missing(key, kExpected);
    return {};
  }
  if (value->kind == Kind::Text && !value->text.empty()) return {value->text};
  if (value->kind != Kind::List || (required && value->children.empty())) {
    const bool empty = value->kind == Kind::List;
    impl_->note(value->mark, key, kExpected + (empty ? ", found an empty list" : found(*value)));
    return {};
  }
  std::vector<std::string> out;
  for (std::size_t i = 0; i < value->children.size(); ++i) {
    const auto& name = value->children[i];
    if (name.kind == Kind::Text && !name.text.empty())
      out.push_back(name.text);
    else
      impl_->wrong(item(key, i), name, "expected a name");
  }
  return out;
}

std::vector<std::int64_t> Section::integers(const std::string& key) {
  impl_->describe(key, {.type = Type::Integers});
  const auto* value = impl_->find(key);
  if (value == nullptr) return {};
  const bool list = value->kind == Kind::List;
  std::vector<std::int64_t> out;
  for (std::size_t i = 0; i < (list ? value->children.size() : 1); ++i) {
    const auto& child = list ? value->children[i] : *value;
    if (const auto number = integer_of(child))
      out.push_back(*number);
    else
      impl_->wrong(list ? item(key, i) : key, child,
                   list ? "expected an integer" : "expected an integer or a list of integers");
  }
  return out;
}

std::vector<std::pair<std::string, double>> Section::numbers(const std::string& key, Range range) {
  impl_->describe(key, {.type = Type::Numbers, .range = range});
  const auto* value = impl_->find(key);
  if (value == nullptr) return {};
  if (value->kind != Kind::Map) {
    impl_->wrong(key, *value, "expected a mapping of names to numbers");
    return {};
  }
  std::vector<std::pair<std::string, double>> out;
  for (const auto& child : value->children) {
    const auto number = number_of(child);
    if (number && within(*number, range))
      out.emplace_back(child.key, *number);
    else
      impl_->wrong(key + '.' + shown(child.key), child, expected_number(range));
  }
  return out;
}

void Section::alias(const std::string& alias, const std::string& key) {
  auto& state = impl_->state;
  state.aliases[alias] = key;
  const auto* given = impl_->find(alias);
  if (given == nullptr) return;
  if (impl_->peek(key) != nullptr)
    return impl_->note(given->key_mark, alias, "the same as \"" + key + "\", which is given too");
  impl_->reading->notes.push_back(impl_->reading->place(given->key_mark) + ": " +
                                  state.path_of(alias) + ": read as " + state.path_of(key));
  state.renamed[key] = alias;
}

void Section::redirect(const std::string& wrong, const std::string& right) {
  impl_->state.redirects[wrong] = right;
}

void Section::reject(const std::string& key, const std::string& expected) {
  const auto* value = impl_->find(key);
  value == nullptr ? impl_->missing(key, expected) : impl_->wrong(key, *value, expected);
}

void Section::report(const std::string& key, const std::string& problem) {
  const auto* value = impl_->find(key);
  impl_->note(value == nullptr ? impl_->state.mark : value->mark, key, problem);
}

std::string Section::place(const std::string& key) const {
  const auto* value = impl_->peek(key);
  return impl_->reading->place(value == nullptr ? impl_->state.mark : value->mark) + ": " +
         impl_->state.path_of(key);
}

std::string Section::place() const {
  return impl_->reading->place(impl_->state.mark) + ": " + impl_->state.path;
}

std::vector<std::string> Section::keys() const {
  std::vector<std::string> out;
  if (impl_->state.map != nullptr)
    for (const auto& entry : impl_->state.map->children) out.push_back(entry.key);
  return out;
}

void Section::ignore(const std::string& key) { impl_->state.asked.insert(key); }

void Section::finish() { impl_->state.finished = true; }

}  // namespace tailor::configs
