#include "models/text/byte_tokenizer.hpp"

#include "models/text/byte_alphabet.hpp"

namespace tailor::models::text {

const char* const kChatMlTemplate =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' "
    "}}{% endif %}";

TokenizerSpec byte_tokenizer() {
  TokenizerSpec spec;
  for (int byte = 0; byte < 256; ++byte)
    spec.vocab.emplace_back(byte_symbol(static_cast<unsigned char>(byte)));
  for (const auto* const mark : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) {
    const auto id = static_cast<std::int64_t>(spec.vocab.size());
    spec.vocab.emplace_back(mark);
    spec.added_tokens.push_back({.id = id, .content = mark, .special = true});
  }
  spec.pre_tokenizer = {{TokenizerSpec::Split::Kind::ByteLevel}};
  spec.bos_id = spec.pad_id = 256;
  spec.eos_id = 258;
  return spec;
}

}  // namespace tailor::models::text
