#include "trainer/data/guess_format.hpp"

#include <nlohmann/json.hpp>
#include <string>

#include "configs/reader.hpp"
#include "trainer/data/line_reader.hpp"

namespace tailor::trainer {

DataFormat guess_format(const std::filesystem::path& file, const std::string& hint) {
  LineReader reader(file);
  bool has_rows = false;
  for (std::string line; reader.next(line);) {
    if (line.find_first_not_of(" \t") == std::string::npos) continue;
    has_rows = true;
    const auto row = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!row.is_object()) break;
    if (row.contains("messages")) return DataFormat::Messages;
    if (row.contains("prompt") && row.contains("completion")) return DataFormat::PromptCompletion;
    if (row.contains("input_ids")) return DataFormat::Tokens;
    if (row.contains("text")) return DataFormat::Text;
    break;
  }
  if (!has_rows) throw configs::ConfigError(file.string() + ": the file has no rows");
  throw configs::ConfigError(file.string() +
                             ": the first row is of no known format (messages, prompt_completion, "
                             "text, tokens)" +
                             (hint.empty() ? "" : "; " + hint));
}

}  // namespace tailor::trainer
