#include "models/text/tokenizer.hpp"
#include "models/text/utf8.hpp"

namespace tailor::models::text {
namespace {

// Where an unfinished sequence begins at the end of `bytes`, or their size.
std::size_t begin_of_unfinished(std::string_view bytes) {
  for (std::size_t back = 1; back < 4 && back <= bytes.size(); ++back) {
    const std::size_t begin = bytes.size() - back;
    const CodePoint last = read_code_point(bytes.substr(begin));
    if (last.cut && last.num_bytes == back) return begin;
  }
  return bytes.size();
}

}  // namespace

std::string StreamDecoder::push(std::int64_t id) {
  if (skip_special_tokens_ && tokenizer_->is_special(id)) return "";
  pending_ += tokenizer_->token_bytes(id);
  const std::size_t complete = begin_of_unfinished(pending_);
  std::string valid;
  std::string text(valid_utf8(std::string_view(pending_).substr(0, complete), valid));
  pending_.erase(0, complete);
  return text;
}

std::string StreamDecoder::flush() {
  std::string valid;
  std::string text(valid_utf8(pending_, valid));
  pending_.clear();
  return text;
}

}  // namespace tailor::models::text
