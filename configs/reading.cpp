#include "configs/reading.hpp"

#include <algorithm>
#include <limits>
#include <unordered_map>

namespace tailor::configs {

std::string Reading::place(const Mark& mark) const {
  if (mark.source > 0)
    return "--set " + shown(assignments[static_cast<std::size_t>(mark.source) - 1]);
  if (mark.line == 0) return file;
  return file + ':' + std::to_string(mark.line) + ':' + std::to_string(mark.column);
}

void Reading::note(const Mark& mark, const std::string& path, const std::string& text) {
  problems.push_back({mark, place(mark) + ": " + (path.empty() ? "" : path + ": ") + text});
}

void Reading::note_duplicates(const Value& value, const std::string& path) {
  std::unordered_map<std::string_view, const Value*> first;
  for (std::size_t i = 0; i < value.children.size(); ++i) {
    const auto& child = value.children[i];
    const auto index = '[' + std::to_string(i) + ']';
    const auto where = value.kind == Kind::List ? path + index
                       : path.empty()           ? shown(child.key)
                                                : path + '.' + shown(child.key);
    if (value.kind == Kind::Map) {
      const auto [other, is_new] = first.emplace(child.key, &child);
      const auto line = other->second->key_mark.line;
      if (!is_new)
        note(child.key_mark, where,
             "given twice" + (line == 0 ? "" : "; first in line " + std::to_string(line)));
    }
    if (!child.children.empty()) note_duplicates(child, where);
  }
}

std::string Reading::suggestion(const SectionState& section, const std::string& key) const {
  const auto quoted = [](const std::string& name) { return "; did you mean \"" + name + "\"?"; };
  if (const auto right = section.redirects.find(key); right != section.redirects.end())
    return quoted(right->second);
  for (const auto& [path, other] : sections) {  // a known key in the wrong section
    if (&other == &section || path.ends_with(']')) continue;
    if (const auto right = other.redirects.find(key); right != other.redirects.end())
      return quoted(other.path_of(right->second));
    if (const auto alias = other.aliases.find(key); alias != other.aliases.end())
      return quoted(other.path_of(alias->second));
    if (other.asked.contains(key)) return quoted(other.path_of(key));
  }
  const auto near = nearest(key, {section.asked.begin(), section.asked.end()});
  return near.empty() ? "" : quoted(near);
}

void Reading::add_unknown_keys(const SectionState& section, std::vector<Problem>& out) const {
  if (!section.finished || section.map == nullptr) return;
  for (const auto& entry : section.map->children) {
    if (section.asked.contains(entry.key)) continue;
    out.push_back({entry.key_mark, place(entry.key_mark) + ": " +
                                       section.path_of(shown(entry.key)) + ": unknown key" +
                                       suggestion(section, entry.key)});
  }
}

std::vector<Problem> Reading::all_problems() const {
  auto all = problems;
  for (const auto& [path, section] : sections) add_unknown_keys(section, all);
  std::ranges::stable_sort(all, {}, &Problem::at);
  // An alias of YAML repeats its problems at the same place.
  const auto repeated = std::ranges::unique(all, {}, &Problem::text);
  all.erase(repeated.begin(), repeated.end());
  return all;
}

}  // namespace tailor::configs
