#include <algorithm>
#include <charconv>
#include <cstddef>
#include <optional>
#include <string>

#include "configs/parse.hpp"
#include "configs/reading.hpp"

namespace tailor::configs {
namespace {

constexpr std::size_t kMaxProblems = 50;  // what a person still reads

std::shared_ptr<Reading> start(Value root, const std::string& file) {
  if (root.kind != Kind::Map) {
    const auto line = root.mark.line == 0 ? "" : ":1:1";
    throw ConfigError(root.kind == Kind::Null
                          ? file + ": expected keys and values, found nothing"
                          : file + line + ": expected keys and values" + found(root));
  }
  auto reading = std::make_shared<Reading>();
  reading->file = file;
  reading->root = std::move(root);
  reading->note_duplicates(reading->root, "");
  return reading;
}

/// A step of the path of an assignment: a key, or a position in a list.
struct Step {
  std::string key;
  std::optional<std::size_t> index;
};

/// "data.train[0].path" in steps; nothing where it is no path.
std::vector<Step> steps_of(std::string_view path) {
  std::vector<Step> steps;
  while (true) {
    const auto end = path.find_first_of(".[");
    if (end == 0 || path.empty()) return {};
    steps.push_back({std::string(path.substr(0, end)), {}});
    if (end == std::string_view::npos) return steps;
    path.remove_prefix(end);
    while (path.starts_with('[')) {
      std::size_t index = 0;
      const auto [rest, error] = std::from_chars(path.data() + 1, path.data() + path.size(), index);
      path.remove_prefix(static_cast<std::size_t>(rest - path.data()));
      if (error != std::errc() || !path.starts_with(']')) return {};
      path.remove_prefix(1);
      steps.push_back({"", index});
    }
    if (path.empty()) return steps;
    if (!path.starts_with('.')) return {};
    path.remove_prefix(1);
  }
}

/// An assignment that finds no place; the text is for the user.
struct Unreachable {
  std::string path, problem;
};

/// Where `steps` lead from `root`; missing and null sections on the way are made.
Value& seat_of(Value& root, const std::vector<Step>& steps, const Mark& mark) {
  auto* value = &root;
  std::string path;
  for (const auto& [key, index] : steps) {
    if (index) {
      if (value->kind != Kind::List) throw Unreachable{path, "expected a list" + found(*value)};
      if (*index >= value->children.size())
        throw Unreachable{path, "expected a position below " +
                                    std::to_string(value->children.size()) + ", found \"" +
                                    std::to_string(*index) + '"'};
      value = &value->children[*index];
      path += '[' + std::to_string(*index) + ']';
      continue;
    }
    if (value->kind == Kind::Null) {
      value->kind = Kind::Map;
      value->mark = mark;
    }
    if (value->kind != Kind::Map) throw Unreachable{path, "expected a section" + found(*value)};
    path += (path.empty() ? "" : ".") + shown(key);
    auto entry = std::ranges::find(value->children, key, &Value::key);
    if (entry == value->children.end()) {
      auto& added = value->children.emplace_back();
      added.key = key;
      added.key_mark = mark;
      added.mark = mark;
      value = &added;
    } else {
      value = &*entry;
    }
  }
  return *value;
}

}  // namespace

Document Document::yaml(const std::string& text, const std::string& file) {
  return Document(start(parse_yaml(text, file), file));
}

Document Document::json(const std::string& text, const std::string& file) {
  return Document(start(parse_json(text, file), file));
}

Document Document::describing() {
  auto reading = std::make_shared<Reading>();
  reading->root.kind = Kind::Map;
  reading->describes = true;
  return Document(reading);
}

void Document::set(const std::string& assignment) {
  auto& reading = *reading_;
  reading.assignments.push_back(assignment);
  const Mark mark{.source = static_cast<int>(reading.assignments.size())};
  const auto equals = assignment.find('=');
  const auto path = assignment.substr(0, equals);
  const auto steps = steps_of(path);
  if (equals == std::string::npos || steps.empty())
    return reading.note(mark, "", "expected key=value, as in peft.r=16");
  try {
    auto value = parse_yaml(assignment.substr(equals + 1), reading.place(mark), mark.source);
    auto& seat = seat_of(reading.root, steps, mark);
    value.key = seat.key;
    value.key_mark = mark;
    if (value.kind == Kind::Null) value.mark = mark;
    seat = std::move(value);
    reading.note_duplicates(seat, path);
  } catch (const ConfigError& e) {
    reading.problems.push_back({mark, e.what()});
  } catch (const Unreachable& e) {
    reading.note(mark, e.path, e.problem);
  }
}

Section Document::root() const {
  auto& state = reading_->sections[""];
  state.map = &reading_->root;
  state.mark = reading_->root.mark;
  return Section(std::make_shared<Section::Impl>(Section::Impl{reading_, state}));
}

void Document::check() const {
  const auto problems = reading_->all_problems();
  if (problems.empty()) return;
  std::string text;
  for (std::size_t i = 0; i < std::min(problems.size(), kMaxProblems); ++i)
    text += (i == 0 ? "" : "\n") + problems[i].text;
  if (problems.size() > kMaxProblems)
    text += "\n... and " + std::to_string(problems.size() - kMaxProblems) + " more";
  throw ConfigError(text);
}

std::vector<std::string> Document::notes() const { return reading_->notes; }

std::string Document::schema(const std::string& title) const { return schema_of(*reading_, title); }

}  // namespace tailor::configs
