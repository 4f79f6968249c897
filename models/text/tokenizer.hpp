#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tailor::models::text {

struct AddedToken {
  std::int64_t id;
  std::string content;
  bool special = false, lstrip = false, rstrip = false, single_word = false, normalized = false;
};

/// What a byte-level BPE tokenizer is made of, whether tokenizer.json or GGUF metadata says it.
struct TokenizerSpec {
  std::vector<std::string> vocab;  // by id, in GPT-2's byte alphabet ("Ġthe"); "" where unused
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
  std::vector<AddedToken> added_tokens;
  /// Pre-tokenisation steps in order, as tokenizer.json's Sequence has them.
  struct Split {
    enum class Kind { Regex, Digits, ByteLevel } kind;
    std::string pattern{};                            // Regex: the expression, every match isolated
    bool individual_digits = false;                   // Digits
    bool add_prefix_space = false, use_regex = true;  // ByteLevel
  };
  std::vector<Split> pre_tokenizer;
  bool ignore_merges = false;  // a word that is in the vocabulary is taken whole (Llama 3)
  bool nfc = false;            // normalizer NFC (Qwen2)
  std::vector<std::int64_t> prefix_ids, suffix_ids;  // put around a text with special tokens (BOS)
  std::optional<std::int64_t> bos_id, eos_id, pad_id, unk_id;
};

/// Byte-level BPE, equal to HF tokenizers id for id. Immutable and thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Any bytes: an invalid UTF-8 sequence is read as U+FFFD, one a maximal subpart, as Python's
  /// bytes.decode(errors="replace") does before HF tokenizers sees the text.
  /// `add_special_tokens` puts prefix_ids and suffix_ids around it.
  virtual std::vector<std::int64_t> encode(std::string_view text,
                                           bool add_special_tokens = false) const = 0;
  /// Bytes that are no UTF-8 become U+FFFD.
  virtual std::string decode(const std::vector<std::int64_t>& ids,
                             bool skip_special_tokens = false) const = 0;
  virtual std::string token_bytes(std::int64_t id) const = 0;  // raw bytes; "" for an unused id
  virtual std::string token_text(std::int64_t id) const = 0;   // as in the vocabulary
  virtual bool is_special(std::int64_t id) const = 0;
  virtual std::optional<std::int64_t> find(
      std::string_view token) const = 0;  // vocabulary or added
  virtual std::int64_t size() const = 0;  // largest id + 1
  virtual const TokenizerSpec& spec() const = 0;
};

/// Throws models::FileError, beginning with `file`, where the parts contradict each other.
std::shared_ptr<const Tokenizer> make_tokenizer(TokenizerSpec spec,
                                                const std::string& file = "tokenizer");

/// Reads tokenizer.json; what is not byte-level BPE, or what would change ids and is not known
/// here, is refused by name. `file` is for messages. Throws models::FileError.
TokenizerSpec parse_tokenizer_json(std::string_view json, const std::string& file);
/// The inverse: a tokenizer.json that HF tokenizers loads and that gives the same ids.
std::string write_tokenizer_json(const TokenizerSpec& spec);
/// Pre-tokenisation of GGUF's `tokenizer.ggml.pre`: "smollm", "llama-bpe", "qwen2", "gpt-2" ... The
/// name also stands for what GGUF does not say: ignore_merges of Llama 3, nfc of Qwen2.
/// Throws models::FileError for an unknown name.
std::vector<TokenizerSpec::Split> pre_tokenizer_named(const std::string& name,
                                                      const std::string& file);

/// Text of a growing sequence of tokens. push() answers the new characters that are complete: a
/// UTF-8 sequence is never cut; flush() gives the rest (U+FFFD for what never completed).
class StreamDecoder {
 public:
  StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special_tokens)
      : tokenizer_(std::move(tokenizer)), skip_special_tokens_(skip_special_tokens) {}
  std::string push(std::int64_t id);
  std::string flush();

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  bool skip_special_tokens_;
  std::string pending_;  // an unfinished UTF-8 sequence
};

}  // namespace tailor::models::text
