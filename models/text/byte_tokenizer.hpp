#pragma once

#include "models/text/tokenizer.hpp"

namespace tailor::models::text {

/// A tokenizer that needs no training: one token a byte, whose id is the byte, and ChatML's marks
/// "<|endoftext|>" 256 (begins, pads), "<|im_start|>" 257 and "<|im_end|>" 258 (ends).
TokenizerSpec byte_tokenizer();

/// The Jinja source of plain ChatML.
extern const char* const kChatMlTemplate;

}  // namespace tailor::models::text
