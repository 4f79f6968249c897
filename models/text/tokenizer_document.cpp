// The parser of tokenizer.json: vocabulary and merges go straight into vectors, since as a tree
// of JSON values they would take most of the start-up time.
#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "models/files/file_error.hpp"
#include "models/text/bpe.hpp"
#include "models/text/tokenizer_json.hpp"

namespace tailor::models::text {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxDepth = 64;

// Answers events of nlohmann's parser.
class Events {
 public:
  Events(TokenizerDocument& document, const std::string& file) : document_(document), file_(file) {}

  bool null() { return value(nullptr, "null"); }
  bool boolean(bool flag) { return value(flag, "a boolean"); }
  bool number_integer(json::number_integer_t number) { return integer(number); }
  bool number_unsigned(json::number_unsigned_t number) { return integer(number); }
  bool number_float(json::number_float_t number, const std::string&) {
    return value(number, "a fraction");
  }
  bool binary(json::binary_t&) { return false; }
  bool string(std::string& text) {
    if (top() == Kind::Merges) {
      add_merge(text);
    } else if (top() == Kind::Pair) {
      pair_.push_back(std::move(text));
    } else {
      return value(std::move(text), "a string");
    }
    return true;
  }

  bool start_object(std::size_t) {
    if (begins_member("vocab") && !document_.has_vocab) {
      document_.has_vocab = true;
      frames_.push_back({Kind::Vocab, nullptr});
    } else {
      open(json::object());
    }
    return true;
  }
  bool key(std::string& name) {
    key_ = std::move(name);
    return true;
  }
  bool end_object() { return end(); }
  bool start_array(std::size_t) {
    if (begins_member("merges") && !document_.has_merges) {
      document_.has_merges = true;
      frames_.push_back({Kind::Merges, nullptr});
    } else if (top() == Kind::Merges) {
      pair_.clear();
      frames_.push_back({Kind::Pair, nullptr});
    } else {
      open(json::array());
    }
    return true;
  }
  bool end_array() {
    if (top() == Kind::Pair) {
      if (pair_.size() != 2) refuse_merge("a list of " + std::to_string(pair_.size()));
      document_.merges.emplace_back(std::move(pair_[0]), std::move(pair_[1]));
    }
    return end();
  }
  bool parse_error(std::size_t position, const std::string&, const json::exception& error) {
    const std::string what = error.what();
    const auto begin = what.find("] ");
    throw FileError(file_ + ": byte " + std::to_string(position) + ": " +
                    (begin == std::string::npos ? what : what.substr(begin + 2)));
  }

  const json& rest() const { return rest_; }

 private:
  enum class Kind { None, Tree, Vocab, Merges, Pair };
  struct Frame {
    Kind kind;
    json* node;  // of Tree
  };

  Kind top() const { return frames_.empty() ? Kind::None : frames_.back().kind; }
  bool begins_member(const char* name) const {
    return frames_.size() == 2 && in_model_ && key_ == name && top() == Kind::Tree;
  }
  [[noreturn]] void refuse_merge(const std::string& found) const {
    throw FileError(file_ + ": model.merges[" + std::to_string(document_.merges.size()) +
                    "]: expected two tokens, found " + found);
  }
  [[noreturn]] void refuse_id(const std::string& found) const {
    throw FileError(file_ + ": model.vocab: token '" + key_.substr(0, 80) + "': " + found);
  }

  template <class T>
  bool integer(T number) {
    if (top() != Kind::Vocab) return value(number, "a number");
    if (number < T{0} || number >= T{std::numeric_limits<std::int32_t>::max()}) {
      refuse_id("expected an id, found " + std::to_string(number));
    }
    entries_.emplace_back(static_cast<std::int32_t>(number), std::move(key_));
    return true;
  }
  void add_merge(const std::string& text) {
    const auto space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      refuse_merge("'" + text.substr(0, 80) + "'");
    }
    document_.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }

  bool value(json scalar, const char* kind) {
    if (top() == Kind::Vocab) refuse_id(std::string("expected an id, found ") + kind);
    if (top() == Kind::Merges || top() == Kind::Pair) refuse_merge(kind);
    put(std::move(scalar));
    return true;
  }
  json* put(json item) {
    if (frames_.empty()) return &(rest_ = std::move(item));
    json& parent = *frames_.back().node;
    if (parent.is_object()) return &(parent[key_] = std::move(item));
    parent.push_back(std::move(item));
    return &parent.back();
  }
  void open(json container) {
    if (top() == Kind::Vocab) refuse_id("expected an id, found a list or an object");
    if (top() == Kind::Merges || top() == Kind::Pair) refuse_merge("a list or an object");
    if (frames_.size() == kMaxDepth) {
      throw FileError(file_ + ": lists and objects are nested more than " +
                      std::to_string(kMaxDepth) + " deep");
    }
    if (frames_.size() == 1) in_model_ = key_ == "model";
    frames_.push_back({Kind::Tree, put(std::move(container))});
  }
  bool end() {
    if (top() == Kind::Vocab) number_vocab();
    frames_.pop_back();
    return true;
  }
  void number_vocab() {
    std::int32_t last = -1;
    for (const auto& [id, text] : entries_) last = std::max(last, id);
    // A few absent ids are normal; a file of two tokens shall not ask for gigabytes.
    if (static_cast<std::size_t>(last + 1) > 2 * entries_.size() + 1024) {
      throw FileError(file_ + ": model.vocab: the largest id is " + std::to_string(last) +
                      ", but " + std::to_string(entries_.size()) + " tokens stand there");
    }
    document_.vocab.resize(static_cast<std::size_t>(last + 1));
    for (auto& [id, text] : entries_) {
      auto& place = document_.vocab[static_cast<std::size_t>(id)];
      if (!place.empty() || text.empty()) {
        throw FileError(file_ + ": model.vocab: id " + std::to_string(id) +
                        (text.empty() ? " has an empty token" : " has two tokens, '") +
                        (text.empty() ? "" : place + "' and '" + text + "'"));
      }
      place = std::move(text);
    }
  }

  TokenizerDocument& document_;
  const std::string& file_;
  json rest_;
  std::vector<Frame> frames_;
  std::string key_;
  bool in_model_ = false;
  std::vector<std::string> pair_;
  std::vector<std::pair<std::int32_t, std::string>> entries_;  // of the vocabulary
};

}  // namespace

TokenizerDocument read_tokenizer_document(std::string_view text, const std::string& file) {
  TokenizerDocument document;
  Events events(document, file);
  json::sax_parse(text, &events);
  if (!events.rest().is_object()) {
    throw FileError(file + ": expected an object, found " + events.rest().type_name());
  }
  document.rest = events.rest().dump();
  return document;
}

std::vector<std::int64_t> assigned_ids(const std::vector<std::string>& vocab,
                                       const std::vector<AddedToken>& added_tokens) {
  const VocabularyIndex index(vocab);
  const auto is_used = [](const std::string& text) { return !text.empty(); };
  const std::int64_t num_used = std::count_if(vocab.begin(), vocab.end(), is_used);
  std::unordered_map<std::string_view, std::int64_t> known;
  std::vector<std::int64_t> ids;
  std::int64_t largest = -1;
  for (const auto& token : added_tokens) {
    const auto in_vocab = index.find(token.content);
    const auto next = in_vocab ? std::int64_t{*in_vocab} : std::max(largest + 1, num_used);
    ids.push_back(known.try_emplace(token.content, next).first->second);
    largest = std::max(largest, ids.back());
  }
  return ids;
}

}  // namespace tailor::models::text
