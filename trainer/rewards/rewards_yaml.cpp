#include "trainer/rewards/reward_reading.hpp"
#include "trainer/rewards/reward_words.hpp"
#include "trainer/yaml_quotes.hpp"

namespace tailor::trainer {
namespace {

/// One entry of the list.
class Entry {
 public:
  Entry& word(const char* key, const std::string& value) {
    out_ += (out_.empty() ? "  - " : "    ") + std::string(key) + ": " + value + '\n';
    return *this;
  }
  Entry& text(const char* key, const std::string& value) { return word(key, in_quotes(value)); }
  Entry& flag(const char* key, bool value) { return word(key, value ? "true" : "false"); }
  Entry& number(const char* key, double value) { return word(key, configs::number_text(value)); }
  Entry& integer(const char* key, std::int64_t value) { return word(key, std::to_string(value)); }
  Entry& integer(const char* key, const std::optional<std::int64_t>& value) {
    return value ? integer(key, *value) : *this;
  }
  const std::string& lines() const { return out_; }

 private:
  std::string out_;
};

void write_children(Entry& entry, const RewardConfig& config) {
  entry.integer("workers", config.workers).number("timeout_s", config.timeout_s);
  if (config.kind == RewardKind::Url) return;
  entry.integer("memory_limit_mb", config.memory_limit_mb)
      .integer("max_restarts", config.max_restarts);
  if (!config.cwd.empty()) entry.text("cwd", config.cwd.string());
}

void write_keys(Entry& entry, const RewardConfig& config) {
  switch (config.kind) {
    case RewardKind::NumericAnswer:
      entry.text("column", config.column).number("tolerance", config.tolerance);
      return;
    case RewardKind::ExactAnswer:
      entry.text("column", config.column)
          .flag("ignore_case", config.ignore_case)
          .flag("ignore_punctuation", config.ignore_punctuation);
      return;
    case RewardKind::Regex:
      entry.text("pattern", config.pattern);
      return;
    case RewardKind::JsonSchema:
      entry.text("schema", config.schema.string());
      return;
    case RewardKind::FormatTags:
      entry.word("tags", in_quotes(config.tags)).flag("strict", config.strict);
      return;
    case RewardKind::Length:
      entry.integer("min_length", config.min_length).integer("max_length", config.max_length);
      return;
    case RewardKind::Overlong:
      entry.integer("max_length", config.max_length).integer("cache_length", config.cache_length);
      return;
    case RewardKind::Repetition:
      entry.integer("ngram_size", config.ngram_size).number("max_penalty", config.max_penalty);
      return;
    case RewardKind::Python:
      entry.text("python_executable", config.python_executable)
          .number("start_timeout_s", config.start_timeout_s);
      return write_children(entry, config);
    case RewardKind::Command:
    case RewardKind::Url:
      return write_children(entry, config);
  }
}

std::string entry_yaml(const RewardConfig& config) {
  Entry entry;
  if (config.kind == RewardKind::Python)
    entry.text("python", config.file.string() + ':' + config.function);
  else if (config.kind == RewardKind::Command)
    entry.word("command", in_quotes(config.command));
  else if (config.kind == RewardKind::Url)
    entry.text("url", config.url);
  else
    entry.word("name", word_of_kind(config.kind));
  entry.text(config.kind < RewardKind::Python ? "label" : "name", config.name)
      .number("weight", config.weight);
  write_keys(entry, config);
  return entry.lines();
}

}  // namespace

std::string rewards_yaml(const std::vector<RewardConfig>& rewards) {
  std::string out;
  for (const auto& config : rewards) out += (out.empty() ? "rewards:\n" : "") + entry_yaml(config);
  return out;
}

}  // namespace tailor::trainer
