#include "models/text/chat_source.hpp"

#include <array>
#include <cstdint>

namespace tailor::models::text {
namespace {

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_word(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

class Canonical {
 public:
  explicit Canonical(std::string_view source) : rest_(source) {}

  std::string run() {
    while (true) {
      const std::size_t open = find_tag();
      std::string_view text = rest_.substr(0, open);
      const bool ends = open == std::string_view::npos;
      rest_.remove_prefix(ends ? rest_.size() : open);
      literal(text);
      if (ends || !tag()) return std::move(out_);
    }
  }

 private:
  std::size_t find_tag() const {
    for (std::size_t at = 0; at + 1 < rest_.size(); ++at) {
      const char kind = rest_[at + 1];
      if (rest_[at] == '{' && (kind == '{' || kind == '%' || kind == '#')) return at;
    }
    return std::string_view::npos;
  }

  // Text between the tag before and the one at the beginning of rest_.
  void literal(std::string_view text) {
    bool begins_line = out_.empty();
    if (trims_) {
      while (!text.empty() && is_space(text[0])) text.remove_prefix(1);
    } else if (after_block_ && !text.empty() && text[0] == '\n') {
      text.remove_prefix(1);
      begins_line = true;
    }
    if (rest_.size() > 2 && rest_[2] == '-') {
      while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
    } else if (rest_.size() > 2 && rest_[1] != '{') {
      const auto line = text.rfind('\n');
      const std::size_t begin = line == std::string_view::npos ? 0 : line + 1;
      const bool blank = text.find_first_not_of(" \t", begin) == std::string_view::npos;
      if (blank && (begin > 0 || begins_line)) text = text.substr(0, begin);
    }
    if (rest_.empty() && !text.empty() && text.back() == '\n') text.remove_suffix(1);
    if (!text.empty()) out_ += "{{'" + escaped(text) + "'}}";
  }
  static std::string escaped(std::string_view text) {
    std::string out;
    for (const char c : text) out += c == '\n' ? std::string("\\n") : std::string(1, c);
    return out;
  }

  // Copies the tag at the beginning of rest_; false where it has no end.
  bool tag() {
    const char kind = rest_[1];
    const std::string close = {kind == '{' ? '}' : kind, '}'};
    after_block_ = kind != '{';
    std::size_t at = rest_.size() > 2 && rest_[2] == '-' ? 3 : 2;
    if (kind != '#') out_ += rest_.substr(0, 2);
    const std::size_t begin = out_.size();
    while (at < rest_.size() && rest_.compare(at, 2, close) != 0) {
      const char c = rest_[at];
      if (kind == '#') {
        ++at;
      } else if (const std::size_t length = attribute_length(at)) {
        out_ += '.';
        out_ += rest_.substr(at + 2, length);
        at += length + 4;
      } else if (c == '\'' || c == '"') {
        at = quoted(at);
      } else {
        if (!is_space(c)) {
          out_ += c;
        } else if (is_word(out_.back()) && at + 1 < rest_.size() && is_word(next_visible(at))) {
          out_ += ' ';
        }
        ++at;
      }
    }
    if (at >= rest_.size()) return false;
    trims_ = rest_[at - 1] == '-';
    if (trims_ && out_.size() > begin && out_.back() == '-') out_.pop_back();
    if (kind != '#') out_ += close;
    rest_.remove_prefix(at + 2);
    return true;
  }
  // Of a run of spaces only the first one counts.
  char next_visible(std::size_t at) const {
    while (at < rest_.size() && is_space(rest_[at])) ++at;
    return at < rest_.size() ? rest_[at] : ' ';
  }
  // Of `name` where ['name'] stands, which is .name; otherwise 0.
  std::size_t attribute_length(std::size_t at) const {
    if (rest_[at] != '[' || at + 1 == rest_.size()) return 0;
    const char quote = rest_[at + 1];
    std::size_t end = at + 2;
    while (end < rest_.size() && is_word(rest_[end])) ++end;
    const bool closes =
        (quote == '\'' || quote == '"') && rest_.substr(end, 2) == std::string{quote, ']'};
    return closes ? end - at - 2 : 0;
  }
  std::size_t quoted(std::size_t at) {
    const char quote = rest_[at++];
    out_ += '\'';
    for (; at < rest_.size() && rest_[at] != quote; ++at) {
      const char c = rest_[at];
      if (c == '\\' && at + 1 < rest_.size()) {
        const char next = rest_[++at];
        if (next == '"') {
          out_ += '"';
        } else {
          out_ += {c, next};
        }
      } else {
        out_ += c == '\n' ? std::string("\\n") : c == '\'' ? "\\'" : std::string(1, c);
      }
    }
    out_ += '\'';
    return at + 1;
  }

  std::string_view rest_;
  std::string out_;
  bool trims_ = false, after_block_ = false;
};

// A string's value; nothing where it has an escape that no known message has.
std::optional<std::string> unescaped(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text[at] != '\\') {
      out += text[at];
      continue;
    }
    if (++at == text.size()) return std::nullopt;
    const char c = text[at];
    if (c != 'n' && c != 't' && c != '\'' && c != '\\') return std::nullopt;
    out += c == 'n' ? '\n' : c == 't' ? '\t' : c;
  }
  return out;
}

std::uint64_t fingerprint(std::string_view text) {  // 64-bit FNV-1a
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

// A default system message in the canonical source, as it stands in a string there.
std::string_view default_message(std::string_view source) {
  constexpr std::string_view kBegin = "'<|im_start|>system\\n", kEnd = "<|im_end|>\\n'";
  for (std::size_t at = 0; (at = source.find(kBegin, at)) != std::string_view::npos;) {
    at += kBegin.size();
    const std::size_t end = source.find(kEnd, at);
    if (end == std::string_view::npos) return {};
    const std::string_view message = source.substr(at, end - at);
    std::size_t quote = message.find('\'');
    while (quote != std::string_view::npos && quote > 0 && message[quote - 1] == '\\') {
      quote = message.find('\'', quote + 1);
    }
    if (quote == std::string_view::npos) return message;
  }
  return {};
}

struct Known {
  std::uint64_t fingerprint;
  ChatMlStyle::Kind kind;
};
// Of canonical sources with "@" for the default system message.
constexpr std::array kKnown{
    Known{0x7224637054c765f7, ChatMlStyle::Kind::Plain},  // SmolLM2, Qwen2
    Known{0x2d7d578ecbaff9f8, ChatMlStyle::Kind::Plain},  // without a default system message
    Known{0xbe3e012de16d9591, ChatMlStyle::Kind::Plain},  // the same, with a default for the prompt
    Known{0x03aea0867c325a81, ChatMlStyle::Kind::Tools},  // Qwen2.5
    Known{0x3c96f951b0ea43b8, ChatMlStyle::Kind::Tools},  // Qwen3-2507 without thinking
    Known{0x6f629d59687a6669, ChatMlStyle::Kind::Thinking},  // Qwen3 as it came out
    Known{0x2e2b47fcb99adfbc, ChatMlStyle::Kind::Thinking},  // Qwen3 today
};

}  // namespace

std::string canonical_jinja(std::string_view source) { return Canonical(source).run(); }

std::optional<ChatMlStyle> recognise_chat_template(std::string_view jinja) {
  std::string source = canonical_jinja(jinja);
  ChatMlStyle style{ChatMlStyle::Kind::Plain, std::nullopt};
  const std::string message(default_message(source));
  if (!message.empty()) {
    style.default_system = unescaped(message);
    if (!style.default_system) return std::nullopt;
    for (std::size_t at = 0; (at = source.find(message, at)) != std::string::npos; ++at) {
      source.replace(at, message.size(), "@");
    }
  }
  for (const auto& known : kKnown) {
    if (known.fingerprint != fingerprint(source)) continue;
    style.kind = known.kind;
    return style;
  }
  return std::nullopt;
}

}  // namespace tailor::models::text
