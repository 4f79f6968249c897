#include "models/text/tokenizer.hpp"

#include <algorithm>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <unordered_map>

#include "models/files/file_error.hpp"
#include "models/text/added_tokens.hpp"
#include "models/text/bpe.hpp"
#include "models/text/byte_alphabet.hpp"
#include "models/text/nfc.hpp"
#include "models/text/split_regex.hpp"
#include "models/text/utf8.hpp"
#include "models/text/word_cache.hpp"

namespace tailor::models::text {
namespace {

constexpr std::size_t kMaxAddedTokenBytes = 4096;  // bounds the search, token times text
constexpr std::size_t kMaxSplits = 32;

// https://github.com/openai/gpt-2/blob/master/src/encoder.py
constexpr const char* kGpt2Split =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// HF's Digits asks Rust, which knows Unicode 17.
constexpr const char* kNumber = R"([\p{N}\x{11de0}-\x{11de9}\x{16ff4}-\x{16ff6}])";

struct SplitStep {
  std::unique_ptr<const SplitRegex> regex;  // null: does not split
  bool add_prefix_space;
};

std::vector<SplitStep> make_steps(const std::vector<TokenizerSpec::Split>& splits,
                                  const std::string& file) {
  using Kind = TokenizerSpec::Split::Kind;
  const std::string place = file + ": pre_tokenizer";
  const auto is_byte_level = [](const auto& split) { return split.kind == Kind::ByteLevel; };
  if (splits.empty() || splits.size() > kMaxSplits || !is_byte_level(splits.back()) ||
      std::count_if(splits.begin(), splits.end(), is_byte_level) != 1) {
    throw FileError(place + ": expected up to " + std::to_string(kMaxSplits) +
                    " steps of which ByteLevel is the last");
  }
  std::vector<SplitStep> steps;
  for (const auto& split : splits) {
    const bool is_last = split.kind == Kind::ByteLevel;
    if (is_last && !split.use_regex && !split.add_prefix_space) continue;
    SplitStep step{nullptr, is_last && split.add_prefix_space};
    std::string pattern = is_last ? kGpt2Split : split.pattern;
    if (split.kind == Kind::Digits) {
      pattern = std::string(kNumber) + (split.individual_digits ? "" : "+");
    }
    if (!is_last || split.use_regex) step.regex = std::make_unique<SplitRegex>(pattern, place);
    steps.push_back(std::move(step));
  }
  return steps;
}

class ByteLevelTokenizer : public Tokenizer {
 public:
  ByteLevelTokenizer(TokenizerSpec spec, const std::string& file)
      : spec_(std::move(spec)),
        index_(spec_.vocab),
        bpe_(spec_, index_, file),
        steps_(make_steps(spec_.pre_tokenizer, file)),
        size_(static_cast<std::int64_t>(spec_.vocab.size())) {
    for (const auto& token : spec_.added_tokens) add(token, file);
    for (const auto* ids : {&spec_.prefix_ids, &spec_.suffix_ids}) {
      for (const auto id : *ids) {
        if (id >= 0 && id < size_) continue;
        throw FileError(file + ": special token id " + std::to_string(id) +
                        " lies outside the vocabulary of " + std::to_string(size_) + " tokens");
      }
    }
  }

  std::vector<std::int64_t> encode(std::string_view text, bool add_special_tokens) const override {
    if (text.size() > std::numeric_limits<std::int32_t>::max() / 4) {
      throw std::length_error("a text of " + std::to_string(text.size()) +
                              " bytes is too long to be tokenised at once");
    }
    std::vector<std::int64_t> ids;
    if (add_special_tokens) ids = spec_.prefix_ids;
    const Lease workspace(*this);
    std::string valid;
    for (const auto& piece : verbatim_.split(valid_utf8(text, valid), workspace->buffers)) {
      if (piece.token) {
        ids.push_back(piece.token->id);
      } else {
        encode_between(piece.text, *workspace, ids);
      }
    }
    if (add_special_tokens) {
      ids.insert(ids.end(), spec_.suffix_ids.begin(), spec_.suffix_ids.end());
    }
    return ids;
  }

  std::string decode(const std::vector<std::int64_t>& ids,
                     bool skip_special_tokens) const override {
    std::string bytes;
    for (const auto id : ids) {
      if (!skip_special_tokens || !is_special(id)) bytes += token_bytes(id);
    }
    std::string valid;
    return std::string(valid_utf8(bytes, valid));
  }

  std::string token_bytes(std::int64_t id) const override {
    std::string text = token_text(id);
    // HF's decoder takes added tokens for spelt bytes, too, where they could be some.
    const auto bytes = bytes_of_symbols(text);
    return bytes ? *bytes : text;
  }

  std::string token_text(std::int64_t id) const override {
    if (const auto* entry = added(id)) return entry->text;
    const bool known = id >= 0 && static_cast<std::size_t>(id) < spec_.vocab.size();
    return known ? spec_.vocab[static_cast<std::size_t>(id)] : "";
  }

  bool is_special(std::int64_t id) const override {
    const auto* entry = added(id);
    return entry && entry->token->special;
  }

  std::optional<std::int64_t> find(std::string_view token) const override {
    const auto found = added_by_content_.find(std::string(token));
    if (found != added_by_content_.end()) return found->second;
    return index_.find(token);
  }

  std::int64_t size() const override { return size_; }
  const TokenizerSpec& spec() const override { return spec_; }

 private:
  struct AddedEntry {
    const AddedToken* token;
    std::string text;
  };
  // What one thread needs while it encodes.
  struct Workspace {
    MatchBuffers buffers;
    WordCache cache;
    Bpe::Scratch scratch;
    std::vector<std::int64_t> word_ids;
  };
  class Lease {
   public:
    explicit Lease(const ByteLevelTokenizer& owner) : owner_(owner) {
      const std::lock_guard lock(owner.mutex_);
      if (owner.idle_.empty()) {
        workspace_ = std::make_unique<Workspace>();
      } else {
        workspace_ = std::move(owner.idle_.back());
        owner.idle_.pop_back();
      }
    }
    ~Lease() {
      const std::lock_guard lock(owner_.mutex_);
      owner_.idle_.push_back(std::move(workspace_));
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Workspace* operator->() const { return workspace_.get(); }
    Workspace& operator*() const { return *workspace_; }

   private:
    const ByteLevelTokenizer& owner_;
    std::unique_ptr<Workspace> workspace_;
  };

  void add(const AddedToken& token, const std::string& file) {
    const std::string place = file + ": added token '" + token.content.substr(0, 80) + "'";
    if (token.id < 0 || token.id > std::numeric_limits<std::int32_t>::max()) {
      throw FileError(place + ": id " + std::to_string(token.id) + " is out of range");
    }
    if (token.content.size() > kMaxAddedTokenBytes) {
      throw FileError(place + ": expected at most " + std::to_string(kMaxAddedTokenBytes) +
                      " bytes, found " + std::to_string(token.content.size()));
    }
    // HF tokenizers knows a normalised token by its normalised text from then on.
    std::string composed, text = token.content;
    if (token.normalized && spec_.nfc) text = nfc(token.content, composed);
    (token.normalized ? normalized_ : verbatim_).add(token, text);
    added_[token.id] = {&token, std::move(text)};
    added_by_content_[token.content] = token.id;
    size_ = std::max(size_, token.id + 1);
  }

  const AddedEntry* added(std::int64_t id) const {
    const auto found = added_.find(id);
    return found == added_.end() ? nullptr : &found->second;
  }

  // Text between added tokens that are matched before normalisation.
  void encode_between(std::string_view text, Workspace& workspace,
                      std::vector<std::int64_t>& ids) const {
    std::string composed;
    if (spec_.nfc) text = nfc(text, composed);
    for (const auto& piece : normalized_.split(text, workspace.buffers)) {
      if (piece.token) {
        ids.push_back(piece.token->id);
      } else {
        pre_tokenize(0, piece.text, workspace, ids);
      }
    }
  }

  void pre_tokenize(std::size_t step, std::string_view text, Workspace& workspace,
                    std::vector<std::int64_t>& ids) const {
    if (step == steps_.size()) return encode_word(text, workspace, ids);
    std::string prefixed;
    if (steps_[step].add_prefix_space && text[0] != ' ') {
      prefixed.append(" ").append(text);
      text = prefixed;
    }
    if (!steps_[step].regex) return pre_tokenize(step + 1, text, workspace, ids);
    steps_[step].regex->split(text, workspace.buffers, [&](std::string_view piece) {
      pre_tokenize(step + 1, piece, workspace, ids);
    });
  }

  void encode_word(std::string_view word, Workspace& workspace,
                   std::vector<std::int64_t>& ids) const {
    if (word.size() > WordCache::kMaxWordBytes) return bpe_.encode(word, workspace.scratch, ids);
    auto& entry = workspace.cache.place(word);
    if (entry.word != word) {
      workspace.word_ids.clear();
      bpe_.encode(word, workspace.scratch, workspace.word_ids);
      entry.word = word;
      entry.ids = workspace.word_ids;
    }
    ids.insert(ids.end(), entry.ids.begin(), entry.ids.end());
  }

  const TokenizerSpec spec_;
  const VocabularyIndex index_;
  const Bpe bpe_;
  const std::vector<SplitStep> steps_;
  AddedTokenMatcher verbatim_, normalized_;
  std::unordered_map<std::int64_t, AddedEntry> added_;
  std::unordered_map<std::string, std::int64_t> added_by_content_;
  std::int64_t size_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Workspace>> idle_;
};

}  // namespace

std::shared_ptr<const Tokenizer> make_tokenizer(TokenizerSpec spec, const std::string& file) {
  return std::make_shared<ByteLevelTokenizer>(std::move(spec), file);
}

}  // namespace tailor::models::text
