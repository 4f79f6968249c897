#include "models/text/split_regex.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdint>

#include "models/files/file_error.hpp"
#include "models/text/utf8.hpp"

namespace tailor::models::text {
namespace {

template <auto free_function>
struct Deleter {
  template <class T>
  void operator()(T* object) const {
    free_function(object);
  }
};
using CodePtr = std::unique_ptr<pcre2_code, Deleter<pcre2_code_free>>;
using CompileContextPtr =
    std::unique_ptr<pcre2_compile_context, Deleter<pcre2_compile_context_free>>;
using MatchContextPtr = std::unique_ptr<pcre2_match_context, Deleter<pcre2_match_context_free>>;
using MatchDataPtr = std::unique_ptr<pcre2_match_data, Deleter<pcre2_match_data_free>>;
using JitStackPtr = std::unique_ptr<pcre2_jit_stack, Deleter<pcre2_jit_stack_free>>;

constexpr std::size_t kJitStackBytes = 1 << 20;
constexpr std::uint32_t kHeapLimitKib = 1 << 18;
// Steps of backtracking: a sane expression takes a few a byte, an insane one 2^bytes.
constexpr std::uint64_t kMatchLimit = 10'000'000, kMatchLimitPerByte = 32;

std::string pcre2_message(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

}  // namespace

struct MatchBuffers::Parts {
  MatchContextPtr context{pcre2_match_context_create(nullptr)};
  MatchDataPtr data{pcre2_match_data_create(1, nullptr)};
  JitStackPtr stack{pcre2_jit_stack_create(1 << 15, kJitStackBytes, nullptr)};
};

MatchBuffers::MatchBuffers() : parts_(std::make_unique<Parts>()) {
  pcre2_jit_stack_assign(parts_->context.get(), nullptr, parts_->stack.get());
  pcre2_set_heap_limit(parts_->context.get(), kHeapLimitKib);
}
MatchBuffers::~MatchBuffers() = default;

struct SplitRegex::Code {
  CodePtr pcre2;
};

SplitRegex::SplitRegex(const std::string& pattern, const std::string& place)
    : pattern_(pattern), place_(place), code_(std::make_unique<Code>()) {
  const std::string translated = pcre2_pattern(pattern, place);
  const CompileContextPtr context(pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  // Ruby's ^ and $ are anchors of lines.
  code_->pcre2.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()),
                                   translated.size(), PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE,
                                   &error, &offset, context.get()));
  if (!code_->pcre2) {
    throw FileError(place + ": regular expression '" + pattern + "': " + pcre2_message(error));
  }
  // Without JIT (not built, or memory may not be made executable) pcre2_match interprets.
  pcre2_jit_compile(code_->pcre2.get(), PCRE2_JIT_COMPLETE);
}
SplitRegex::~SplitRegex() = default;

bool SplitRegex::search(std::string_view text, std::size_t from, MatchBuffers& buffers,
                        Span& found) const {
  const auto& parts = *buffers.parts_;
  const auto run = [&](std::uint32_t options) {
    return pcre2_match(code_->pcre2.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                       from, options | PCRE2_NO_UTF_CHECK, parts.data.get(), parts.context.get());
  };
  const std::uint64_t limit = kMatchLimit + kMatchLimitPerByte * text.size();
  pcre2_set_match_limit(parts.context.get(),
                        static_cast<std::uint32_t>(std::min<std::uint64_t>(limit, UINT32_MAX)));
  int result = run(0);
  if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = run(PCRE2_NO_JIT);
  if (result == PCRE2_ERROR_NOMATCH) return false;
  if (result < 0) {
    throw FileError(place_ + ": regular expression '" + pattern_ + "' on a text of " +
                    std::to_string(text.size()) + " bytes: " + pcre2_message(result));
  }
  const PCRE2_SIZE* span = pcre2_get_ovector_pointer(parts.data.get());
  found = {std::min(span[0], span[1]), span[1]};  // \K may put the begin behind the end
  return true;
}

bool SplitRegex::matches(std::string_view text, MatchBuffers& buffers) const {
  Span found;
  return search(text, 0, buffers, found);
}

void SplitRegex::split(std::string_view text, MatchBuffers& buffers,
                       const std::function<void(std::string_view)>& sink) const {
  std::size_t done = 0;  // pieces up to here are given out
  std::size_t from = 0;  // the search goes on here
  std::size_t last_end = text.size() + 1;
  Span found;
  while (from <= text.size() && search(text, from, buffers, found)) {
    if (found.begin == found.end && found.end == last_end) {  // an empty match after a match
      if (from == text.size()) break;
      from += read_code_point(text.substr(from)).num_bytes;
      continue;
    }
    if (found.begin > done) sink(text.substr(done, found.begin - done));
    if (found.end > found.begin) sink(text.substr(found.begin, found.end - found.begin));
    done = from = last_end = found.end;
  }
  if (done < text.size()) sink(text.substr(done));
}

}  // namespace tailor::models::text
