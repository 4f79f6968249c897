#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tailor::configs {

struct Reading;

/// The user's file is wrong. The text has one line a problem, in file order:
/// "file:line:column: key path: what was expected, what was found".
class ConfigError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Range {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool open_min = false;  // min itself is refused
  bool open_max = false;
};

/// One mapping of a document. A read consumes its key. A read that fails notes the problem, answers
/// a harmless value and goes on, so that the user sees all problems at once; nothing read may be
/// used before Document::check(). Without a fallback a key is required; a key whose value is null
/// counts as absent.
class Section {
 public:
  struct Impl;
  explicit Section(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

  bool has(const std::string& key) const;  // present and not null; does not consume

  Section section(const std::string& key, bool required = false);  // absent: an empty section
  /// A list of mappings, of at least one where `required`; absent: none.
  std::vector<Section> sections(const std::string& key, bool required = false);

  std::int64_t integer(const std::string& key, std::optional<std::int64_t> fallback = {},
                       std::int64_t min = std::numeric_limits<std::int64_t>::min(),
                       std::int64_t max = std::numeric_limits<std::int64_t>::max());
  std::int64_t positive(const std::string& key, std::optional<std::int64_t> fallback = {});
  double number(const std::string& key, std::optional<double> fallback = {}, Range range = {});
  bool boolean(const std::string& key, std::optional<bool> fallback = {});
  std::string text(const std::string& key, std::optional<std::string> fallback = {});
  /// One of `choices`; the message lists them and suggests the nearest. The choices "true" and
  /// "false" are the booleans.
  std::string choice(const std::string& key, std::initializer_list<const char*> choices,
                     std::optional<std::string> fallback = {});
  /// A list of `choices`, or one of them.
  std::vector<std::string> choices(const std::string& key,
                                   std::initializer_list<const char*> choices,
                                   std::vector<std::string> fallback);
  /// A list of names, or one name. Absent: empty where `required` is false.
  std::vector<std::string> names(const std::string& key, bool required = true);
  std::vector<std::int64_t> integers(const std::string& key);  // a list, or one; absent: empty
  /// A mapping of names to numbers in file order (rank_pattern); absent: empty.
  std::vector<std::pair<std::string, double>> numbers(const std::string& key, Range range = {});

  bool is_list(const std::string& key) const;
  bool is_text(const std::string& key) const;  // a string, quoted or not a number, boolean or null
  bool is_boolean(const std::string& key) const;
  bool is_integer(const std::string& key) const;  // a number without point and exponent
  bool is_empty(const std::string& key) const;    // null, false, "", [] or {}; does not consume

  bool failed(const std::string& key) const;  // a problem of this key is noted

  /// `alias` is another framework's word for `key`: accepted with a note that names both; both
  /// given is a problem. Call before reading `key`.
  void alias(const std::string& alias, const std::string& key);
  /// `wrong` is a word that users bring along: where it is given the problem says what to write.
  void redirect(const std::string& wrong, const std::string& right);

  /// Notes a problem of the value of `key`, for rules that are the reader's own: "place: path:
  /// expected, found ...".
  void reject(const std::string& key, const std::string& expected);
  /// The same with a text of its own: "place: path: problem".
  void report(const std::string& key, const std::string& problem);
  /// "file:line:column: path" of a key (or of the section where the key is absent), for errors that
  /// are found later, when the model or the data is open.
  std::string place(const std::string& key) const;
  std::string place() const;              // of the section itself
  std::vector<std::string> keys() const;  // all keys, in file order; consumes nothing
  void ignore(const std::string& key);    // consumes it unread
  /// Asks that Document::check() refuses every key that nobody asked for. Sections read from this
  /// one finish on their own. Keys given twice are always refused.
  void finish();

 private:
  std::shared_ptr<Impl> impl_;
};

/// A parsed YAML or JSON file with marks. Aliases are expanded; a document of more than 100,000
/// values or 64 levels, a second document in the file and text that is no YAML are ConfigErrors.
class Document {
 public:
  /// `file` is only for messages. YAML is at most 1 MiB.
  static Document yaml(const std::string& text, const std::string& file);
  static Document json(const std::string& text, const std::string& file);  // without line marks
  /// A document without text that records what is read from it, for schema(). has() answers true
  /// and makes the key optional, is_...() answers false, sections() has one section.
  static Document describing();

  /// Replaces or adds one value: "peft.r=16"; the value is YAML. Before anything is read. Problems
  /// of such a value are reported as "--set peft.r=16: ...".
  void set(const std::string& assignment);

  Section root() const;
  void check() const;                      // throws ConfigError with every problem noted so far
  std::vector<std::string> notes() const;  // accepted aliases, one line each
  /// JSON Schema (draft 2020-12) of what was read; of a describing() document.
  std::string schema(const std::string& title) const;

 private:
  explicit Document(std::shared_ptr<Reading> reading) : reading_(std::move(reading)) {}
  std::shared_ptr<Reading> reading_;
};

/// The candidate nearest to `word` by edits, or "" where none is near: for "did you mean".
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);

/// The shortest text that reads back as the same number, for YAML and JSON.
std::string number_text(double number);

}  // namespace tailor::configs
