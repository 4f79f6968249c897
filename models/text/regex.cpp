#include "models/text/regex.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cstdint>

#include "models/files/file_error.hpp"

namespace tailor::models::text {
namespace {

// Steps of backtracking: a sane expression takes a few a byte, an insane one 2^bytes.
constexpr std::uint32_t kMatchLimit = 10'000'000;
constexpr std::uint32_t kHeapLimitKib = 1 << 18;

std::string message_of(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

struct DataDeleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

}  // namespace

struct Regex::Code {
  pcre2_code* pattern = nullptr;
  pcre2_match_context* context = nullptr;

  Code() = default;
  ~Code() {
    pcre2_match_context_free(context);
    pcre2_code_free(pattern);
  }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
};

Regex::Regex(const std::string& pattern, const std::string& place)
    : code_(std::make_unique<Code>()) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_->pattern =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF | PCRE2_NEVER_BACKSLASH_C,
                    &error, &offset, nullptr);
  if (code_->pattern == nullptr)
    throw FileError(place + ": regular expression '" + pattern + "': " + message_of(error) +
                    " at byte " + std::to_string(offset));
  code_->context = pcre2_match_context_create(nullptr);
  pcre2_set_match_limit(code_->context, kMatchLimit);
  pcre2_set_heap_limit(code_->context, kHeapLimitKib);
  // Without JIT (not built, or memory may not be made executable) pcre2_match interprets.
  pcre2_jit_compile(code_->pattern, PCRE2_JIT_COMPLETE);
}
Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;

bool Regex::found_in(std::string_view text) const {
  const std::unique_ptr<pcre2_match_data, DataDeleter> data(pcre2_match_data_create(1, nullptr));
  const auto run = [&](std::uint32_t options) {
    return pcre2_match(code_->pattern, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0,
                       options, data.get(), code_->context);
  };
  int result = run(0);
  if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = run(PCRE2_NO_JIT);
  if (result == PCRE2_ERROR_NOMATCH) return false;
  if (result < 0)
    throw RegexLimit("the regular expression was given up on a text of " +
                     std::to_string(text.size()) + " bytes: " + message_of(result));
  return true;
}

}  // namespace tailor::models::text
