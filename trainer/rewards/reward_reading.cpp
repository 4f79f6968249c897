#include "trainer/rewards/reward_reading.hpp"

#include <algorithm>
#include <map>
#include <optional>

#include "trainer/rewards/reward_words.hpp"
#include "trainer/run_config_ranges.hpp"

namespace tailor::trainer {
namespace {

namespace fs = std::filesystem;
using configs::Section;

constexpr configs::Range kNotPositive{.max = 0.0};
constexpr configs::Range kSeconds{.min = 0.0, .max = 86400.0, .open_min = true};
constexpr std::int64_t kMaxTokens = 1 << 24, kMaxWorkers = 256, kMaxCount = 1'000'000'000;

/// The kind of an entry; absent: it is wrong, or the document only describes itself, and then the
/// keys of every kind are read.
std::optional<RewardKind> read_kind(Section& entry) {
  std::vector<const char*> given;
  for (const auto* key : {"python", "command", "url"})
    if (entry.has(key)) given.push_back(key);
  if (given.size() > 1) {
    entry.report(given[1], std::string("a reward is one thing, and ") + given[0] +
                               " is given too: make it an entry of its own");
    return {};
  }
  if (given.empty()) {
    entry.redirect("type", "name");
    if (!entry.has("name")) {
      entry.report("name",
                   "missing; expected a built-in reward, or one of python, command and url");
      return {};
    }
    const auto word = entry.choice("name", kBuiltInRewards);
    return static_cast<RewardKind>(std::ranges::find(kBuiltInRewards, word) -
                                   kBuiltInRewards.begin());
  }
  for (const auto kind : {RewardKind::Python, RewardKind::Command, RewardKind::Url})
    if (word_of_kind(kind) == given[0]) return kind;
  return {};
}

/// Notes keys that are of other kinds of reward.
void refuse_foreign_keys(Section& entry, RewardKind kind) {
  for (const auto& [key, kinds] : kKeysOfRewards) {
    if (!entry.has(key) || std::ranges::find(kinds, kind) != kinds.end()) continue;
    std::string owners;
    for (const auto owner : kinds)
      owners += (owners.empty()                ? ""
                 : owner == *(kinds.end() - 1) ? " and "
                                               : ", ") +
                word_of_kind(owner);
    entry.report(key, "remove it: it belongs to " + owners + ", not to " + word_of_kind(kind));
    entry.ignore(key);
  }
}

/// "reward.py:function"; without a function its name is `reward`.
void read_python(Section& entry, const PathBase& base, RewardConfig& config) {
  const auto text = entry.text("python");
  if (entry.failed("python")) return;
  const auto colon = text.rfind(':');
  const bool named = colon != std::string::npos && text.find('/', colon) == std::string::npos;
  config.function = named ? text.substr(colon + 1) : "reward";
  const auto file = text.substr(0, named ? colon : text.size());
  const auto is_word = [](char c) {
    return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c & 0x80) != 0;
  };
  const bool is_name = !config.function.empty() && std::ranges::all_of(config.function, is_word) &&
                       !(config.function[0] >= '0' && config.function[0] <= '9');
  if (file.empty() || !is_name || text.find('\0') != std::string::npos)
    return entry.reject("python", "expected a file and a function, as in reward.py:function");
  config.file = (base.folder / file).lexically_normal();
  if (base.paths == Paths::AsWritten) return;
  if (const auto problem = file_problem(config.file); !problem.empty())
    entry.report("python", problem);
}

void read_command(Section& entry, RewardConfig& config) {
  config.command = entry.names("command");
  if (entry.failed("command") || config.command.empty()) return;
  if (!entry.is_list("command") && config.command[0].find(' ') != std::string::npos)
    entry.reject("command", "expected a list of words, as in [./score, --fast]");
  for (const auto& word : config.command)
    if (word.find('\0') != std::string::npos) entry.reject("command", "expected words of text");
}

std::string folder_to_run_in_problem(const fs::path& folder) {
  std::error_code error;
  return fs::is_directory(folder, error) ? "" : "no such folder: " + folder.string();
}

void read_children(Section& entry, const PathBase& base, RewardConfig& config) {
  config.workers = entry.integer("workers", config.workers, 1, kMaxWorkers);
  config.timeout_s = entry.number("timeout_s", config.timeout_s, kSeconds);
  if (config.kind == RewardKind::Url) return;
  config.memory_limit_mb = entry.integer("memory_limit_mb", config.memory_limit_mb, 0, kMaxCount);
  config.max_restarts = entry.integer("max_restarts", config.max_restarts, 0, kMaxCount);
  config.cwd = read_path(entry, "cwd", base, folder_to_run_in_problem, /*optional=*/true);
  if (config.cwd.empty()) config.cwd = base.folder;
}

void read_python_process(Section& entry, RewardConfig& config) {
  config.python_executable = entry.text("python_executable", config.python_executable);
  config.start_timeout_s = entry.number("start_timeout_s", config.start_timeout_s, kSeconds);
  if (config.python_executable.empty() || config.python_executable.find('\0') != std::string::npos)
    entry.reject("python_executable", "expected a program");
}

void read_lengths(Section& entry, RewardConfig& config) {
  config.min_length = entry.integer("min_length", config.min_length, 0, kMaxTokens);
  if (entry.has("max_length")) config.max_length = entry.integer("max_length", {}, 1, kMaxTokens);
  if (config.kind == RewardKind::Length && !config.max_length && !entry.has("min_length"))
    entry.report("max_length", "missing; expected min_length, max_length or both");
  if (config.max_length && config.min_length > *config.max_length)
    entry.reject("min_length",
                 "expected at most max_length (" + std::to_string(*config.max_length) + ')');
}

void read_overlong(Section& entry, RewardConfig& config) {
  if (entry.has("max_length")) config.max_length = entry.integer("max_length", {}, 1, kMaxTokens);
  config.cache_length = entry.integer("cache_length", config.cache_length, 0, kMaxTokens);
  if (config.max_length && config.cache_length > *config.max_length)
    entry.reject("cache_length",
                 "expected at most max_length (" + std::to_string(*config.max_length) + ')');
}

void read_tags(Section& entry, RewardConfig& config) {
  config.tags = entry.names("tags");
  config.strict = entry.boolean("strict", config.strict);
  const auto is_name = [](const std::string& tag) {
    return std::ranges::all_of(tag, [](char c) {
      return c == '_' || c == '-' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
             (c >= 'A' && c <= 'Z');
    });
  };
  for (std::size_t i = 0; i < config.tags.size(); ++i) {
    if (!is_name(config.tags[i]))
      return entry.report("tags",
                          "expected names, as in [think, answer], found \"" + config.tags[i] + '"');
    if (std::find(config.tags.begin(), config.tags.begin() + static_cast<std::ptrdiff_t>(i),
                  config.tags[i]) != config.tags.begin() + static_cast<std::ptrdiff_t>(i))
      return entry.report("tags", '"' + config.tags[i] + "\" is given twice");
  }
}

void read_keys_of(RewardKind kind, Section& entry, const PathBase& base, RewardConfig& config) {
  switch (kind) {
    case RewardKind::NumericAnswer:
      config.column = entry.text("column", config.column);
      config.tolerance = entry.number("tolerance", config.tolerance, kNotNegative);
      return;
    case RewardKind::ExactAnswer:
      config.column = entry.text("column", config.column);
      config.ignore_case = entry.boolean("ignore_case", config.ignore_case);
      config.ignore_punctuation = entry.boolean("ignore_punctuation", config.ignore_punctuation);
      return;
    case RewardKind::Regex:
      config.pattern = entry.text("pattern");
      return;
    case RewardKind::JsonSchema:
      config.schema = read_path(entry, "schema", base, file_problem);
      return;
    case RewardKind::FormatTags:
      return read_tags(entry, config);
    case RewardKind::Length:
      return read_lengths(entry, config);
    case RewardKind::Overlong:
      return read_overlong(entry, config);
    case RewardKind::Repetition:
      config.ngram_size = entry.integer("ngram_size", config.ngram_size, 1, kMaxTokens);
      config.max_penalty = entry.number("max_penalty", config.max_penalty, kNotPositive);
      return;
    case RewardKind::Python:
      read_python(entry, base, config);
      read_python_process(entry, config);
      return read_children(entry, base, config);
    case RewardKind::Command:
      read_command(entry, config);
      return read_children(entry, base, config);
    case RewardKind::Url:
      config.url = entry.text("url");
      return read_children(entry, base, config);
  }
}

/// What an external reward is called where the job does not say.
std::string default_name(const RewardConfig& config) {
  const auto word = config.kind == RewardKind::Python ? config.function
                    : config.command.empty()
                        ? word_of_kind(config.kind)
                        : fs::path(config.command[0]).filename().stem().string();
  std::string out;
  for (const char c : word) out += c > ' ' && c != '/' && c != '\x7F' ? c : '_';
  return out.empty() ? word_of_kind(config.kind) : out;
}

void read_name(Section& entry, RewardConfig& config) {
  const bool built_in = config.kind < RewardKind::Python;
  const auto* key = built_in ? "label" : "name";
  if (!built_in) entry.redirect("label", "name");
  config.name = entry.text(key, built_in ? word_of_kind(config.kind) : default_name(config));
  const bool is_name = !config.name.empty() && std::ranges::all_of(config.name, [](char c) {
    return static_cast<unsigned char>(c) > ' ' && c != '/' && c != '\x7F';
  });
  if (!is_name && !entry.failed(key))
    entry.reject(key, "expected a word without spaces and slashes, for the metrics");
}

RewardConfig read_reward(Section& entry, const PathBase& base) {
  RewardConfig config;
  config.place = entry.place();
  const auto kind = read_kind(entry);
  config.weight = entry.number("weight", config.weight);
  entry.redirect("timeout", "timeout_s");
  if (kind && !entry.failed("name")) {
    config.kind = *kind;
    refuse_foreign_keys(entry, *kind);
    read_keys_of(*kind, entry, base, config);
    read_name(entry, config);
  } else {
    for (const auto& [key, kinds] : kKeysOfRewards) entry.ignore(key);
    entry.ignore("name");
    entry.ignore("label");
  }
  entry.finish();
  return config;
}

/// A describing document records every key.
void describe(Section& entry, const PathBase& base) {
  RewardConfig config;
  entry.text("name", "");
  entry.text("label", "");
  entry.number("weight", config.weight);
  for (const auto& [key, kinds] : kKeysOfRewards) entry.has(key);  // none is required of all
  for (int kind = 0; kind <= static_cast<int>(RewardKind::Url); ++kind) {
    config.kind = static_cast<RewardKind>(kind);
    read_keys_of(config.kind, entry, base, config);
  }
  entry.finish();
}

bool describes(const Section& entry) {
  // No reward has a key of that name, and a describing document has every key.
  return entry.has("every kind of reward");
}

}  // namespace

std::vector<RewardConfig> read_rewards(Section& root, const PathBase& base) {
  std::vector<RewardConfig> out;
  std::map<std::string, std::string> places;  // by name
  for (auto& entry : root.sections("rewards", /*required=*/true)) {
    if (describes(entry)) {
      describe(entry, base);
      return out;
    }
    auto config = read_reward(entry, base);
    const auto* key = config.kind < RewardKind::Python ? "label" : "name";
    const auto [known, fresh] = places.try_emplace(config.name, config.place);
    if (!fresh && !config.name.empty() && !entry.failed(key))
      entry.report(key, "two rewards are called \"" + config.name + "\", as at " + known->second +
                            ": give one of them another " + key);
    out.push_back(std::move(config));
  }
  return out;
}

}  // namespace tailor::trainer
