#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "configs/reader.hpp"
#include "configs/value.hpp"

namespace tailor::configs {

/// One read of a key, as a describing document records it.
struct Field {
  enum class Type {
    Integer,
    Number,
    Boolean,
    Text,
    Choice,
    Choices,
    Names,
    Integers,
    Numbers,
    Section,
    Sections
  };
  Type type;
  bool required = false;
  std::vector<std::string> fallback{};  // of a scalar: one; of a list: its items
  std::int64_t min = std::numeric_limits<std::int64_t>::min();
  std::int64_t max = std::numeric_limits<std::int64_t>::max();
  Range range{};
  std::vector<std::string> choices{};
};

/// What is known of one section while it is read.
struct SectionState {
  const Value* map = nullptr;  // null: absent, or no mapping
  Mark mark;                   // where it stands, or the section around it where it is absent
  std::string path;            // "" at the root, else "peft", "data.train[0]"
  bool broken = false;         // a problem of the section itself is noted: no more about its keys
  bool finished = false;
  std::set<std::string> asked, failed;
  std::map<std::string, std::string> aliases, redirects;
  std::map<std::string, std::string> renamed;         // keys that the document gives by an alias
  std::vector<std::pair<std::string, Field>> fields;  // of a describing document
  std::set<std::string> optional;                     // keys behind has()

  /// As the user wrote it: a key that an alias gives has the alias's name.
  std::string path_of(const std::string& key) const {
    const auto alias = renamed.find(key);
    const auto& name = alias == renamed.end() ? key : alias->second;
    return path.empty() ? name : path + '.' + name;
  }
};

struct Problem {
  Mark at;
  std::string text;
};

/// What the sections of one document share.
struct Reading {
  std::string file;
  bool describes = false;
  Value root;
  std::vector<std::string> assignments;          // of --set, in order
  std::map<std::string, SectionState> sections;  // by path; references stay valid
  std::vector<Problem> problems;
  std::vector<std::string> notes;

  /// "file:line:column", "file" or "--set key=value".
  std::string place(const Mark& mark) const;
  void note(const Mark& mark, const std::string& path, const std::string& text);
  /// Notes every key given twice in `map` and below.
  void note_duplicates(const Value& map, const std::string& path);
  /// Problems so far, unknown keys of finished sections included, in the user's order.
  std::vector<Problem> all_problems() const;

 private:
  void add_unknown_keys(const SectionState& section, std::vector<Problem>& out) const;
  std::string suggestion(const SectionState& section, const std::string& key) const;
};

struct Section::Impl {
  std::shared_ptr<Reading> reading;
  SectionState& state;

  /// The value of a key, or null where it is absent or null; consumes the key.
  const Value* find(const std::string& key);
  const Value* peek(const std::string& key) const;
  void describe(const std::string& key, Field field);
  /// Notes "place: path: text" of a key or of what is inside its value ("train[0]").
  void note(const Mark& mark, const std::string& key, const std::string& text);
  /// A value is missing or is not what was expected.
  void missing(const std::string& key, const std::string& expected);
  void wrong(const std::string& key, const Value& value, const std::string& expected);
  /// The section at `map`, made where it was not asked for before.
  std::shared_ptr<Impl> child(const std::string& path, const Value* map, const Mark& mark,
                              bool broken) const;
};

std::string schema_of(const Reading& reading, const std::string& title);

}  // namespace tailor::configs
