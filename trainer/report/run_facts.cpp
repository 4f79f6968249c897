#include "trainer/report/run_facts.hpp"

#include <algorithm>
#include <cmath>
#include <exception>
#include <fstream>
#include <string_view>
#include <utility>

#include "configs/reader.hpp"
#include "models/files/inspect.hpp"
#include "models/text/utf8.hpp"

namespace tailor::trainer {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxConfigBytes = std::size_t{256} << 10;

std::string valid(std::string text) {
  std::string storage;
  const auto same = models::text::valid_utf8(text, storage);
  return same.data() == text.data() ? std::move(text) : std::move(storage);
}

std::string joined(const std::vector<std::string>& names) {
  std::string out;
  for (const auto& name : names) out += (out.empty() ? "" : ", ") + name;
  return out;
}

/// Reads what it knows; a value of another type stays absent.
void read_values(const configs::Document& document, JobFacts& job) {
  auto root = document.root();
  const auto text = [](configs::Section& section, const char* key) {
    return section.is_text(key) ? section.text(key) : std::string();
  };
  const auto integer = [](configs::Section& section, const char* key) {
    return section.is_integer(key) ? std::optional(section.integer(key)) : std::nullopt;
  };
  const auto number = [](configs::Section& section, const char* key) -> std::optional<double> {
    if (!section.has(key)) return std::nullopt;
    const double value = section.number(key);
    return section.failed(key) ? std::nullopt : std::optional(value);
  };
  job.task = text(root, "task");
  auto model = root.section("model");
  job.model = text(model, "name_or_path");
  job.dtype = text(model, "dtype");
  auto peft = root.section("peft");
  job.r = integer(peft, "r");
  job.lora_alpha = number(peft, "lora_alpha");
  job.target_modules = joined(peft.names("target_modules", /*required=*/false));
  auto train = root.section("train");
  job.max_steps = integer(train, "max_steps");
  job.learning_rate = number(train, "learning_rate");
}

/// The finite values of a column; none where there is no such column.
std::vector<std::pair<std::int64_t, double>> finite_values(const MetricsTable& table,
                                                           const std::string& name) {
  std::vector<std::pair<std::int64_t, double>> out;
  const auto column = table.columns.find(name);
  if (column == table.columns.end()) return out;
  for (std::size_t i = 0; i < table.steps.size(); ++i) {
    if (const auto& cell = column->second[i]; cell && std::isfinite(*cell))
      out.emplace_back(table.steps[i], *cell);
  }
  return out;
}

struct Ends {
  std::optional<double> first, last;
};

/// Means of the first and of the last tenth of a column, of `max_count` values at most.
Ends ends_of(const MetricsTable& table, const std::string& name, std::size_t max_count) {
  const auto values = finite_values(table, name);
  if (values.empty()) return {};
  const auto count = std::clamp<std::size_t>(values.size() / 10, 1, max_count);
  double first = 0.0, last = 0.0;
  for (std::size_t i = 0; i < count; ++i) {
    first += values[i].second;
    last += values[values.size() - 1 - i].second;
  }
  return {first / static_cast<double>(count), last / static_cast<double>(count)};
}

std::optional<double> last_of(const MetricsTable& table, const std::string& name) {
  const auto values = finite_values(table, name);
  return values.empty() ? std::nullopt : std::optional(values.back().second);
}

std::optional<std::int64_t> whole(std::optional<double> number) {
  constexpr double kMaxExact = 9007199254740992.0;  // 2^53
  if (!number || std::abs(*number) > kMaxExact) return std::nullopt;
  return static_cast<std::int64_t>(*number);
}

}  // namespace

std::optional<JobFacts> read_job_facts(const fs::path& file, Notes& notes) {
  std::ifstream in(file, std::ios::binary);
  if (!in) {
    notes.push_back(file.filename().string() + " is not there: model and settings are unknown");
    return std::nullopt;
  }
  JobFacts job;
  job.text.resize(kMaxConfigBytes + 1);
  in.read(job.text.data(), static_cast<std::streamsize>(job.text.size()));
  job.text.resize(static_cast<std::size_t>(in.gcount()));
  const bool cut = job.text.size() > kMaxConfigBytes;
  if (cut) job.text.resize(kMaxConfigBytes);
  job.text = valid(std::move(job.text));
  if (cut) {
    notes.push_back(file.filename().string() + " is longer than 256 KiB and cut");
    return job;
  }
  try {
    read_values(configs::Document::yaml(job.text, file.filename().string()), job);
  } catch (const configs::ConfigError& error) {
    notes.push_back(valid(error.what()));
  }
  return job;
}

std::optional<AdapterFacts> read_adapter_facts(const fs::path& folder, Notes& notes) {
  if (!fs::exists(folder)) return std::nullopt;
  try {
    const auto seen = models::inspect(folder);
    return AdapterFacts{.kind = seen.kind,
                        .num_tensors = std::ssize(seen.tensors),
                        .num_parameters = seen.num_parameters,
                        .num_bytes = seen.num_bytes};
  } catch (const std::runtime_error& error) {
    notes.push_back("the adapter cannot be read: " + valid(error.what()));
    return std::nullopt;
  }
}

std::vector<CheckpointFacts> list_checkpoints(const fs::path& folder) {
  std::vector<CheckpointFacts> out;
  std::error_code error;  // a running job may delete one meanwhile
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (!entry.is_directory(error) || !entry.path().filename().string().starts_with("step-"))
      continue;
    CheckpointFacts facts{.name = valid(entry.path().filename().string())};
    for (const auto& file : fs::directory_iterator(entry.path(), error)) {
      const auto size = file.file_size(error);
      if (!error) facts.num_bytes += static_cast<std::int64_t>(size);
    }
    out.push_back(std::move(facts));
  }
  std::ranges::sort(out, {}, &CheckpointFacts::name);
  return out;
}

Totals totals(const MetricsTable& table) {
  Totals out;
  if (!table.steps.empty()) out.steps = table.steps.back();
  const auto loss = ends_of(table, "loss", 1), reward = ends_of(table, "reward", 10);
  out.first_loss = loss.first;
  out.last_loss = loss.last;
  out.first_reward = reward.first;
  out.last_reward = reward.last;
  for (const auto& [step, value] : finite_values(table, "eval_loss")) {
    out.last_eval_loss = value;
    if (out.best_eval_loss && *out.best_eval_loss <= value) continue;
    out.best_eval_loss = value;
    out.best_eval_step = step;
  }
  out.num_tokens = whole(last_of(table, "num_tokens"));
  out.elapsed_s = last_of(table, "elapsed_s");
  for (const auto& [step, bytes] : finite_values(table, "rss_bytes"))
    out.peak_rss_bytes = std::max(out.peak_rss_bytes.value_or(0), whole(bytes).value_or(0));
  double eval_s = 0.0;
  for (const auto& [step, seconds] : finite_values(table, "eval_runtime_s")) eval_s += seconds;
  if (out.num_tokens && out.elapsed_s && *out.elapsed_s > eval_s)
    out.tokens_per_second = static_cast<double>(*out.num_tokens) / (*out.elapsed_s - eval_s);
  return out;
}

}  // namespace tailor::trainer
