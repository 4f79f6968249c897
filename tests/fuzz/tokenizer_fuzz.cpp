// A tokenizer.json, then a zero byte, then a text; without the zero byte all of it is both. What
// the parser takes must encode and decode any text, and be written so that it reads back the same.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "configs/reader.hpp"
#include "models/files/file_error.hpp"
#include "models/text/chat.hpp"
#include "models/text/tokenizer.hpp"

using namespace tailor::models;

namespace {

void check(bool holds) {
  if (!holds) std::abort();
}

void use(const text::TokenizerSpec& spec, const std::string& input) {
  const auto tokenizer = text::make_tokenizer(spec, "fuzz");
  const auto ids = tokenizer->encode(input, /*add_special_tokens=*/true);
  for (const auto id : ids) check(id >= 0 && id < tokenizer->size());
  text::StreamDecoder decoder(tokenizer, false);
  std::string streamed;
  for (const auto id : ids) streamed += decoder.push(id);
  check(streamed + decoder.flush() == tokenizer->decode(ids));

  const auto again = text::parse_tokenizer_json(text::write_tokenizer_json(spec), "again");
  check(text::make_tokenizer(again, "again")->encode(input, true) == ids);
}

void recognise(const std::string& jinja) {
  text::TokenizerSpec spec;
  spec.vocab = {"<|im_start|>", "<|im_end|>"};
  spec.added_tokens = {{0, spec.vocab[0], true}, {1, spec.vocab[1], true}};
  spec.pre_tokenizer = {{text::TokenizerSpec::Split::Kind::ByteLevel}};
  const auto chat = text::make_chat_template(jinja, text::make_tokenizer(spec), "fuzz");
  const auto rendered = chat->encode({{"user", jinja}, {"assistant", jinja}}, true);
  check(rendered.ids.size() == rendered.from_assistant.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  const auto zero = bytes.find('\0');
  const std::string document = bytes.substr(0, zero);
  const std::string input = zero == std::string::npos ? bytes : bytes.substr(zero + 1);
  try {
    use(text::parse_tokenizer_json(document, "fuzz"), input);
  } catch (const FileError&) {
  }
  try {
    recognise(document);
  } catch (const FileError&) {
  } catch (const tailor::configs::ConfigError&) {
  }
  return 0;
}
