#pragma once

#include <filesystem>

#include "trainer/run_config.hpp"

namespace tailor::trainer {

/// The format that the keys of the first row of a JSONL file speak of. Throws ConfigError for a row
/// of no known format, and for a file that cannot be read.
DataFormat guess_format(const std::filesystem::path& file);

}  // namespace tailor::trainer
