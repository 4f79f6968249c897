// Rows of every format from any bytes: each is parsed or refused with a ConfigError.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "trainer/data/rows.hpp"

namespace {

using tailor::trainer::DataFormat;

void parse(std::string_view line, DataFormat format) {
  try {
    const auto row = tailor::trainer::parse_row(line, format, "fuzz.jsonl", 1);
    if (row.tokens.ids.size() != row.tokens.labels.size()) std::abort();
    if (format == DataFormat::Messages && row.messages.empty()) std::abort();
  } catch (const tailor::configs::ConfigError& error) {
    // A reason is for a terminal: short, whatever the row holds.
    if (std::string_view(error.what()).size() > 2000) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view line(reinterpret_cast<const char*>(data), size);
  for (const auto format :
       {DataFormat::Messages, DataFormat::PromptCompletion, DataFormat::Text, DataFormat::Tokens})
    parse(line, format);
  return 0;
}
