#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>

#include "models/files/file_error.hpp"
#include "models/text/bpe.hpp"
#include "models/text/byte_alphabet.hpp"
#include "models/text/tokenizer_json.hpp"

namespace tailor::models::text {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxFoundBytes = 80;

// A value and where it stands, for messages.
class Node {
 public:
  Node(const json& value, std::string place) : value_(&value), place_(std::move(place)) {}

  [[noreturn]] void refuse(const std::string& expected) const {
    std::string found = value_->dump(-1, ' ', false, json::error_handler_t::replace);
    if (found.size() > kMaxFoundBytes) found = std::string("a long ") + value_->type_name();
    throw FileError(place_ + ": expected " + expected + ", found " + found);
  }
  const json& value() const { return *value_; }
  bool is_null() const { return value_->is_null(); }

  /// The member, or null where it is absent.
  Node member(const char* name) const {
    static const json null;
    if (!value_->is_object()) refuse("an object");
    const auto found = value_->find(name);
    return {found == value_->end() ? null : *found, place_ + "." + name};
  }
  std::vector<Node> items() const {
    if (!value_->is_array()) refuse("a list");
    std::vector<Node> nodes;
    for (const auto& item : *value_) {
      nodes.emplace_back(item, place_ + "[" + std::to_string(nodes.size()) + "]");
    }
    return nodes;
  }
  std::string string() const {
    if (!value_->is_string()) refuse("a string");
    return value_->get<std::string>();
  }
  bool boolean(bool absent) const {
    if (value_->is_null()) return absent;
    if (!value_->is_boolean()) refuse("true or false");
    return value_->get<bool>();
  }
  std::int64_t id() const {
    if (!value_->is_number_unsigned() || value_->get<std::uint64_t>() > INT32_MAX) refuse("an id");
    return value_->get<std::int64_t>();
  }
  /// Members that nobody reads could change ids.
  void expect_only(std::initializer_list<const char*> names) const {
    if (!value_->is_object()) refuse("an object");
    for (const auto& [name, item] : value_->items()) {
      const auto is_it = [&name = name](const char* known) { return name == known; };
      if (std::none_of(names.begin(), names.end(), is_it)) {
        throw FileError(place_ + ": '" + name.substr(0, kMaxFoundBytes) + "' is not known here");
      }
    }
  }

 private:
  const json* value_;
  std::string place_;
};

void read_model(const Node& model, TokenizerSpec& spec) {
  const Node type = model.member("type");  // files from before 2020 have none
  if (!type.is_null() && type.string() != "BPE") type.refuse("BPE");
  model.expect_only({"type", "dropout", "unk_token", "continuing_subword_prefix",
                     "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges", "vocab",
                     "merges"});
  const Node dropout = model.member("dropout");
  if (!dropout.is_null() && dropout.value() != 0) dropout.refuse("null");
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const Node node = model.member(affix);
    if (!node.is_null() && !node.string().empty()) node.refuse("none");
  }
  if (model.member("byte_fallback").boolean(false)) model.member("byte_fallback").refuse("false");
  spec.ignore_merges = model.member("ignore_merges").boolean(false);
  const Node unknown = model.member("unk_token");
  if (unknown.is_null()) return;
  const VocabularyIndex index(spec.vocab);
  spec.unk_id = index.find(unknown.string());
  for (int byte = 0; byte < 256; ++byte) {
    // Only where a byte has no token the unknown token would ever stand in a result.
    if (index.find(byte_symbol(static_cast<unsigned char>(byte)))) continue;
    unknown.refuse("null, since byte " + std::to_string(byte) + " is not in the vocabulary");
  }
}

void read_normalizer(const Node& normalizer, TokenizerSpec& spec) {
  if (normalizer.is_null()) return;
  const std::string type = normalizer.member("type").string();
  if (type == "Sequence") {
    for (const auto& item : normalizer.member("normalizers").items()) read_normalizer(item, spec);
  } else if (type == "NFC") {
    spec.nfc = true;
  } else {
    normalizer.member("type").refuse("NFC, or Sequence of such");
  }
}

void read_pre_tokenizer(const Node& pre_tokenizer, TokenizerSpec& spec) {
  const Node type = pre_tokenizer.member("type");
  const std::string name = type.string();
  using Kind = TokenizerSpec::Split::Kind;
  if (name == "Sequence") {
    for (const auto& item : pre_tokenizer.member("pretokenizers").items()) {
      read_pre_tokenizer(item, spec);
    }
  } else if (name == "Split") {
    TokenizerSpec::Split split{Kind::Regex};
    split.pattern = pre_tokenizer.member("pattern").member("Regex").string();
    const Node behavior = pre_tokenizer.member("behavior");
    if (behavior.string() != "Isolated") behavior.refuse("Isolated");
    spec.pre_tokenizer.push_back(std::move(split));
  } else if (name == "Digits") {
    TokenizerSpec::Split split{Kind::Digits};
    split.individual_digits = pre_tokenizer.member("individual_digits").boolean(false);
    spec.pre_tokenizer.push_back(std::move(split));
  } else if (name == "ByteLevel") {
    TokenizerSpec::Split split{Kind::ByteLevel};
    split.add_prefix_space = pre_tokenizer.member("add_prefix_space").boolean(true);
    split.use_regex = pre_tokenizer.member("use_regex").boolean(true);
    spec.pre_tokenizer.push_back(std::move(split));
  } else {
    type.refuse("Split, Digits or ByteLevel, or Sequence of such");
  }
}

void read_template(const Node& processor, TokenizerSpec& spec) {
  bool has_text = false;
  for (const auto& item : processor.member("single").items()) {
    const Node special = item.member("SpecialToken");
    if (special.is_null()) {
      const Node sequence = item.member("Sequence").member("id");
      if (sequence.string() != "A" || has_text) sequence.refuse("'A' once");
      has_text = true;
      continue;
    }
    const std::string name = special.member("id").string();
    const Node ids = processor.member("special_tokens").member(name.c_str()).member("ids");
    for (const auto& id : ids.items()) {
      (has_text ? spec.suffix_ids : spec.prefix_ids).push_back(id.id());
    }
  }
  if (!has_text) processor.member("single").refuse("a template with the text ('A')");
}

void read_post_processor(const Node& processor, TokenizerSpec& spec, bool& has_template) {
  if (processor.is_null()) return;
  const Node type = processor.member("type");
  const std::string name = type.string();
  if (name == "Sequence") {
    for (const auto& item : processor.member("processors").items()) {
      read_post_processor(item, spec, has_template);
    }
  } else if (name == "TemplateProcessing" && !has_template) {
    has_template = true;
    read_template(processor, spec);
  } else if (name != "ByteLevel") {  // which moves offsets alone
    type.refuse("ByteLevel or one TemplateProcessing, or Sequence of such");
  }
}

void read_decoder(const Node& decoder) {
  const Node type = decoder.member("type");
  const std::string name = type.string();
  if (name == "Sequence") {
    const auto items = decoder.member("decoders").items();
    if (items.size() != 1) decoder.refuse("ByteLevel alone");
    read_decoder(items[0]);
  } else if (name != "ByteLevel") {
    type.refuse("ByteLevel");
  }
}

void read_added_tokens(const Node& list, TokenizerSpec& spec) {
  if (list.is_null()) return;
  const auto items = list.items();
  for (const auto& item : items) {
    AddedToken token{item.member("id").id(), item.member("content").string()};
    token.special = item.member("special").boolean(false);
    token.lstrip = item.member("lstrip").boolean(false);
    token.rstrip = item.member("rstrip").boolean(false);
    token.single_word = item.member("single_word").boolean(false);
    token.normalized = item.member("normalized").boolean(!token.special);
    spec.added_tokens.push_back(std::move(token));
  }
  const auto assigned = assigned_ids(spec.vocab, spec.added_tokens);
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (spec.added_tokens[i].id == assigned[i]) continue;
    items[i].member("id").refuse("id " + std::to_string(assigned[i]) + " for '" +
                                 spec.added_tokens[i].content.substr(0, kMaxFoundBytes) +
                                 "', which follows from the vocabulary");
  }
}

}  // namespace

TokenizerSpec parse_tokenizer_json(std::string_view text, const std::string& file) {
  TokenizerDocument document = read_tokenizer_document(text, file);
  const json rest = json::parse(document.rest);
  const auto member = [&](const char* name) {
    return Node(Node(rest, file).member(name).value(), file + ": " + name);
  };
  // Truncation and padding are what the file's last user had set; transformers ignores them, too.
  Node(rest, file)
      .expect_only({"version", "truncation", "padding", "added_tokens", "normalizer",
                    "pre_tokenizer", "post_processor", "decoder", "model"});
  TokenizerSpec spec;
  spec.vocab = std::move(document.vocab);
  spec.merges = std::move(document.merges);
  const Node model = member("model");
  read_model(model, spec);
  if (!document.has_vocab) model.member("vocab").refuse("an object of tokens and ids");
  if (!document.has_merges) model.member("merges").refuse("a list of merges");
  read_normalizer(member("normalizer"), spec);
  read_pre_tokenizer(member("pre_tokenizer"), spec);
  bool has_template = false;
  read_post_processor(member("post_processor"), spec, has_template);
  read_decoder(member("decoder"));
  read_added_tokens(member("added_tokens"), spec);
  return spec;
}

}  // namespace tailor::models::text
