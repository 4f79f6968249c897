#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "trainer/rewards/answer_text.hpp"

namespace tailor::trainer {
namespace {

constexpr auto kNone = std::string_view::npos;
constexpr std::string_view kSpace = " \t\n\r\f\v";

struct Span {
  std::size_t begin = kNone, end = kNone;  // of the content
};

std::string_view trimmed(std::string_view text) {
  const auto begin = text.find_first_not_of(kSpace);
  if (begin == kNone) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

/// The content of the last \boxed{...} whose braces balance.
Span last_boxed(std::string_view text) {
  std::vector<std::pair<std::size_t, bool>> open;  // behind each brace; whether it is a box's
  Span last;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 1 < text.size() && (text[i + 1] == '{' || text[i + 1] == '}')) {
      ++i;
    } else if (text[i] == '{') {
      const auto before = text.substr(0, i);
      open.emplace_back(i + 1, before.ends_with("\\boxed") || before.ends_with("\\fbox"));
    } else if (text[i] == '}' && !open.empty()) {
      const auto [begin, is_box] = open.back();
      open.pop_back();
      if (is_box && (last.begin == kNone || begin > last.begin)) last = {begin, i};
    }
  }
  return last;
}

/// The line behind the last run of exactly four hashes.
Span last_hashes(std::string_view text) {
  auto end = text.size();
  while (true) {
    const auto last = text.find_last_of('#', end == 0 ? 0 : end - 1);
    if (end == 0 || last == kNone) return {};
    const auto before = text.find_last_not_of('#', last);
    const auto begin = before == kNone ? 0 : before + 1;
    if (last + 1 - begin == 4) return {last + 1, std::min(text.find('\n', last), text.size())};
    end = begin;
  }
}

Span last_tagged(std::string_view text) {
  constexpr std::string_view kOpen = "<answer>", kClose = "</answer>";
  const auto end = text.rfind(kClose);
  if (end == kNone) return {};
  const auto begin = text.substr(0, end).rfind(kOpen);
  if (begin == kNone) return {};
  return {begin + kOpen.size(), end};
}

}  // namespace

std::optional<MarkedAnswer> marked_answer(std::string_view text) {
  const auto hashes = last_hashes(text);
  auto latest = hashes;
  for (const auto& span : {last_boxed(text), last_tagged(text)})
    if (span.begin != kNone && (latest.begin == kNone || span.begin > latest.begin)) latest = span;
  if (latest.begin == kNone) return {};
  return MarkedAnswer{.content = trimmed(text.substr(latest.begin, latest.end - latest.begin)),
                      .after_hashes = latest.begin == hashes.begin};
}

std::string normalised(std::string_view text, const Normalisation& how) {
  const auto is_punctuation = [](char c) {
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
           (c >= '{' && c <= '~');
  };
  std::string out;
  for (const char c : trimmed(text)) {
    const bool is_space = kSpace.find(c) != kNone;
    if (is_space && out.ends_with(' ')) continue;
    const bool is_upper = how.ignore_case && c >= 'A' && c <= 'Z';
    out += is_space ? ' ' : is_upper ? static_cast<char>(c - 'A' + 'a') : c;
  }
  if (!how.ignore_punctuation) return out;
  std::string_view core = out;
  while (!core.empty() && (is_punctuation(core.back()) || core.back() == ' '))
    core.remove_suffix(1);
  const auto signs_digit = [&] {
    return core.size() > 1 && (core[0] == '-' || core[0] == '+' || core[0] == '.') &&
           core[1] >= '0' && core[1] <= '9';
  };
  while (!core.empty() && (is_punctuation(core[0]) || core[0] == ' ') && !signs_digit())
    core.remove_prefix(1);
  // "?" and "..." are answers too.
  return core.empty() ? out : std::string(core);
}

}  // namespace tailor::trainer
