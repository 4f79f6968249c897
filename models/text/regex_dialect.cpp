// From Oniguruma's reading of an expression to PCRE2's. Both know the same syntax as far as
// tokenizers use it; what differs are the Unicode classes, and a few escapes, which are refused.
#include <array>
#include <string>
#include <string_view>
#include <utility>

#include "models/files/file_error.hpp"
#include "models/text/split_regex.hpp"

namespace tailor::models::text {
namespace {

// Code points assigned by Unicode 15 to 16, which an older PCRE2 (10.42: Unicode 14) does not know.
constexpr std::string_view kNewLetters =
    R"(\x{1c89}-\x{1c8a}\x{a7cb}-\x{a7cd}\x{a7da}-\x{a7dc}\x{105c0}-\x{105f3}\x{10d4a}-\x{10d65})"
    R"(\x{10d6f}-\x{10d85}\x{10ec2}-\x{10ec4}\x{1123f}-\x{11240}\x{11380}-\x{11389}\x{1138b})"
    R"(\x{1138e}\x{11390}-\x{113b5}\x{113b7}\x{113d1}\x{113d3}\x{11bc0}-\x{11be0}\x{11f02})"
    R"(\x{11f04}-\x{11f10}\x{11f12}-\x{11f33}\x{1342f}\x{13441}-\x{13446}\x{13460}-\x{143fa})"
    R"(\x{16100}-\x{1611d}\x{16d40}-\x{16d6c}\x{18cff}\x{1b132}\x{1b155}\x{1df25}-\x{1df2a})"
    R"(\x{1e030}-\x{1e06d}\x{1e4d0}-\x{1e4eb}\x{1e5d0}-\x{1e5ed}\x{1e5f0}\x{2b739})"
    R"(\x{2ebf0}-\x{2ee5d}\x{31350}-\x{323af})";
constexpr std::string_view kNewNumbers =
    R"(\x{10d40}-\x{10d49}\x{116d0}-\x{116e3}\x{11bf0}-\x{11bf9}\x{11f50}-\x{11f59})"
    R"(\x{16130}-\x{16139}\x{16d70}-\x{16d79}\x{1ccf0}-\x{1ccf9}\x{1d2c0}-\x{1d2d3})"
    R"(\x{1e4f0}-\x{1e4f9}\x{1e5f1}-\x{1e5fa})";
constexpr std::string_view kNewPunctuation =
    R"(\x{1b4e}-\x{1b4f}\x{1b7f}\x{10d6e}\x{113d4}-\x{113d5}\x{113d7}-\x{113d8}\x{11b00}-\x{11b09})"
    R"(\x{11be1}\x{11f43}-\x{11f4f}\x{16d6d}-\x{16d6f}\x{1e5ff})";
constexpr std::string_view kNewSymbols =
    R"(\x{2427}-\x{2429}\x{2ffc}-\x{2fff}\x{31e4}-\x{31e5}\x{31ef}\x{10d8e}-\x{10d8f})"
    R"(\x{1cc00}-\x{1ccef}\x{1cd00}-\x{1ceb3}\x{1f6dc}\x{1f774}-\x{1f776}\x{1f77b}-\x{1f77f})"
    R"(\x{1f7d9}\x{1f8b2}-\x{1f8bb}\x{1f8c0}-\x{1f8c1}\x{1fa75}-\x{1fa77}\x{1fa87}-\x{1fa89})"
    R"(\x{1fa8f}\x{1faad}-\x{1faaf}\x{1fabb}-\x{1fabf}\x{1fac6}\x{1face}-\x{1facf})"
    R"(\x{1fada}-\x{1fadc}\x{1fadf}\x{1fae8}-\x{1fae9}\x{1faf7}-\x{1faf8}\x{1fbcb}-\x{1fbef})";
constexpr std::string_view kNewMarks =
    R"(\x{897}\x{cf3}\x{ece}\x{10d69}-\x{10d6d}\x{10efc}-\x{10eff}\x{11241}\x{113b8}-\x{113c0})"
    R"(\x{113c2}\x{113c5}\x{113c7}-\x{113ca}\x{113cc}-\x{113d0}\x{113d2}\x{113e1}-\x{113e2})"
    R"(\x{11f00}-\x{11f01}\x{11f03}\x{11f34}-\x{11f3a}\x{11f3e}-\x{11f42}\x{11f5a}\x{13440})"
    R"(\x{13447}-\x{13455}\x{1611e}-\x{1612f}\x{1e08f}\x{1e4ec}-\x{1e4ef}\x{1e5ee}-\x{1e5ef})";

constexpr std::array<std::pair<std::string_view, std::string_view>, 5> kNewCodePoints{{
    {"L", kNewLetters},
    {"N", kNewNumbers},
    {"P", kNewPunctuation},
    {"S", kNewSymbols},
    {"M", kNewMarks},
}};

// Escapes that mean the same to both libraries, besides escaped punctuation.
constexpr std::string_view kSameEscapes = "dDnrtfvaAzZGx0123456789";

class Translation {
 public:
  Translation(std::string_view pattern, const std::string& place)
      : pattern_(pattern), place_(place) {}

  std::string run() {
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (c == '\\') {
        escape();
      } else if (in_class_) {
        inside_class(c);
      } else {
        outside_class(c);
      }
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    throw FileError(place_ + ": regular expression '" + std::string(pattern_) + "': '" +
                    std::string(what) + "' is not supported");
  }
  void copy(std::size_t count) {
    out_ += pattern_.substr(at_, count);
    at_ += count;
  }

  void outside_class(char c) {
    if (c == '[') {
      const std::size_t length = pattern_.substr(at_, 2) == "[^" ? 2 : 1;
      if (pattern_.substr(at_ + length, 1) == "]") refuse(pattern_.substr(at_, length + 1));
      in_class_ = true;
      copy(length);
      return;
    }
    if (pattern_.substr(at_, 2) == "}+") refuse("}+");  // possessive to PCRE2 alone
    if (pattern_.substr(at_, 2) == "(?") check_group();
    copy(1);
  }
  // The options m, s and x and the named groups differ.
  void check_group() const {
    constexpr std::array<std::string_view, 7> kSame{"(?:",  "(?i:", "(?=", "(?!",
                                                    "(?<=", "(?<!", "(?>"};
    for (const auto same : kSame) {
      if (pattern_.substr(at_, same.size()) == same) return;
    }
    if (pattern_.substr(at_, 4) == "(?i)") return;
    refuse(pattern_.substr(at_, 4));
  }
  void inside_class(char c) {
    if (c == '[' || pattern_.substr(at_, 2) == "&&") refuse(pattern_.substr(at_, 2));
    if (c == ']') in_class_ = false;
    copy(1);
  }

  void escape() {
    if (at_ + 1 == pattern_.size()) refuse("\\");
    const char c = pattern_[at_ + 1];
    if (c == 's' || c == 'S') {  // PCRE2 counts U+180E as a space
      out_ += c == 's' ? "\\p{White_Space}" : "\\P{White_Space}";
      at_ += 2;
    } else if (c == 'p' || c == 'P') {
      property(c == 'P');
    } else {
      plain_escape(c);
    }
  }
  void plain_escape(char c) {
    const bool alphanumeric =
        (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (alphanumeric && kSameEscapes.find(c) == std::string_view::npos) {
      refuse(pattern_.substr(at_, 2));
    }
    copy(2);
  }
  void property(bool negated) {
    const std::size_t end = pattern_.find('}', at_);
    if (pattern_.substr(at_ + 2, 1) != "{" || end == std::string_view::npos) {
      refuse(pattern_.substr(at_, 3));
    }
    std::string_view name = pattern_.substr(at_ + 3, end - at_ - 3);
    if (!name.empty() && name[0] == '^') {
      negated = !negated;
      name.remove_prefix(1);
    }
    std::string_view more;
    for (const auto& [known, code_points] : kNewCodePoints) {
      if (name == known) more = code_points;
    }
    const std::string property = "\\p{" + std::string(name) + "}";
    if (more.empty()) {
      out_ += negated ? "\\P{" + std::string(name) + "}" : property;
    } else if (!in_class_) {
      out_ += (negated ? "[^" : "[") + property + std::string(more) + "]";
    } else if (negated) {
      refuse(pattern_.substr(at_, end + 1 - at_));
    } else {
      out_ += property + std::string(more);
    }
    at_ = end + 1;
  }

  std::string_view pattern_;
  const std::string& place_;
  std::size_t at_ = 0;
  bool in_class_ = false;
  std::string out_;
};

}  // namespace

std::string pcre2_pattern(std::string_view pattern, const std::string& place) {
  return Translation(pattern, place).run();
}

}  // namespace tailor::models::text
