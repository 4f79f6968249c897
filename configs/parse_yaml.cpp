#include <yaml-cpp/anchor.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <map>
#include <sstream>
#include <stdexcept>
#include <utility>
#include <vector>

#include "configs/parse.hpp"
#include "configs/reader.hpp"
#include "configs/tree_builder.hpp"

namespace tailor::configs {
namespace {

/// A job file is a page or two. yaml-cpp needs some hundred bytes a byte of text.
constexpr std::size_t kMaxBytes = std::size_t{1} << 20;

/// yaml-cpp's events become a Value: unlike its nodes they show keys given twice, and nothing is
/// shared between aliases.
class Handler final : public YAML::EventHandler {
 public:
  explicit Handler(int source) : source_(source) {}

  TreeBuilder tree;

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    if (tree.wants_key()) refuse_key(mark);
    add({.mark = at(mark)}, anchor, mark);
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& text) override {
    refuse_tag(mark, tag);
    const bool quoted = tag == "!";
    if (tree.wants_key()) {
      if (anchor != 0) throw YAML::ParserException(mark, "a key cannot have an anchor here");
      return limited(mark, [&] { tree.key(text, at(mark)); });
    }
    add({.kind = quoted ? Kind::Text : kind_of_plain(text),
         .quoted = quoted,
         .mark = at(mark),
         .text = text},
        anchor, mark);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    if (tree.wants_key()) refuse_key(mark);
    const auto value = values_.find(anchor);
    if (value == values_.end())
      throw YAML::ParserException(mark, "an alias cannot stand inside the value it repeats");
    limited(mark, [&] { tree.add(value->second); });
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(Kind::List, mark, tag, anchor);
  }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(Kind::Map, mark, tag, anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapEnd() override { close(); }

 private:
  Mark at(const YAML::Mark& mark) const {  // yaml-cpp counts from 0
    return {source_, source_ == 0 ? mark.line + 1 : 0, source_ == 0 ? mark.column + 1 : 0,
            tree.count()};
  }

  /// "?" and "!" are what the parser gives to plain and to quoted scalars.
  static void refuse_tag(const YAML::Mark& mark, const std::string& tag) {
    if (!tag.empty() && tag != "?" && tag != "!")
      throw YAML::ParserException(mark, "tags are not supported, found \"" + shown(tag) + '"');
  }

  /// yaml-cpp takes what stands behind an open bracket for a key.
  [[noreturn]] static void refuse_key(const YAML::Mark& mark) {
    throw YAML::ParserException(mark, "expected a name as key (is a bracket not closed?)");
  }

  template <typename Action>
  static void limited(const YAML::Mark& mark, Action action) {
    try {
      action();
    } catch (const std::length_error& e) {
      throw YAML::ParserException(mark, e.what());
    }
  }

  void add(Value value, YAML::anchor_t anchor, const YAML::Mark& mark) {
    if (anchor != 0) values_[anchor] = value;
    limited(mark, [&] { tree.add(std::move(value)); });
  }

  void open(Kind kind, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    refuse_tag(mark, tag);
    if (tree.wants_key()) refuse_key(mark);
    limited(mark, [&] { tree.open(kind, at(mark)); });
    anchors_.push_back(anchor);
  }
  void close() {
    const auto& value = tree.close();
    if (anchors_.back() != 0) values_[anchors_.back()] = value;
    anchors_.pop_back();
  }

  int source_;
  std::vector<YAML::anchor_t> anchors_;     // of the open lists and maps; 0: none
  std::map<YAML::anchor_t, Value> values_;  // what an alias repeats
};

/// yaml-cpp says no more than "illegal map value" of a line that a tab indents.
std::string tab_hint(const std::string& text, int line) {
  std::size_t start = 0;
  for (int i = 0; i < line && start != std::string::npos; ++i) {
    start = text.find('\n', start);
    if (start != std::string::npos) ++start;
  }
  if (start == std::string::npos) return "";
  const auto end = text.find_first_not_of(" \t", start);
  const bool has_tab = text.substr(start, end - start).find('\t') != std::string::npos;
  return has_tab ? " (a tab cannot indent; use spaces)" : "";
}

}  // namespace

Value parse_yaml(const std::string& text, const std::string& file, int source) {
  if (text.size() > kMaxBytes)
    throw ConfigError(file + ": expected at most 1 MiB of YAML, found more");
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    Handler document(source), next(source);
    if (parser.HandleNextDocument(document) && parser.HandleNextDocument(next))
      throw ConfigError(file + ": expected one YAML document, found more than one" +
                        (text.starts_with('{') ? "; are these rows of data?" : ""));
    return document.tree.take();
  } catch (const YAML::Exception& e) {
    const bool known = source == 0 && !e.mark.is_null();
    const auto place =
        known ? ':' + std::to_string(e.mark.line + 1) + ':' + std::to_string(e.mark.column + 1)
              : "";
    throw ConfigError(file + place + ": " + e.msg + (known ? tab_hint(text, e.mark.line) : ""));
  }
}

}  // namespace tailor::configs
