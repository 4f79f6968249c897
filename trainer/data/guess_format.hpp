#pragma once

#include <filesystem>
#include <string>

#include "trainer/run_config.hpp"

namespace tailor::trainer {

/// The format that the keys of the first row of a JSONL file speak of. Throws ConfigError for a row
/// of no known format, with a `hint` what to do then, and for a file that cannot be read.
DataFormat guess_format(const std::filesystem::path& file, const std::string& hint = "");

}  // namespace tailor::trainer
