#pragma once

#include <cstdint>
#include <string>

#include "models/files/pretrained.hpp"

namespace tailor::models {

/// A model of random weights for tests and trial runs, which needs no download: any supported
/// config.json, text::byte_tokenizer() and ChatML. Matrices are drawn from N(0,
/// initializer_range^2) (absent: 0.02), norms are 1, biases 0; all follow from `seed`. Tensors are
/// made when they are read. Throws configs::ConfigError for a configuration that is refused or a
/// vocab_size that is smaller than the tokenizer.
Pretrained random_pretrained(const std::string& config_json, const std::string& config_file,
                             std::uint64_t seed);

}  // namespace tailor::models
