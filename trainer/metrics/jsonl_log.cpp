#include "trainer/metrics/jsonl_log.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>

#include "configs/reader.hpp"
#include "trainer/metrics/terminal.hpp"

namespace tailor::trainer {
namespace {

[[noreturn]] void refuse(const std::filesystem::path& path, const std::string& reason) {
  throw configs::ConfigError(path.string() + ": cannot write the metrics: " + reason);
}

std::string json_number(double value) {
  if (std::isnan(value)) return "\"nan\"";
  if (std::isinf(value)) return value > 0 ? "\"inf\"" : "\"-inf\"";
  std::array<char, 32> digits{};
  const auto end = std::to_chars(digits.begin(), digits.end(), value).ptr;
  std::string text(digits.begin(), end);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";  // stays a float in any reader
  return text;
}

std::string json_value(double value) { return json_number(value); }
std::string json_value(std::int64_t value) { return std::to_string(value); }
std::string json_value(const Histogram& histogram) {
  const auto list = [](const auto& values) {
    std::string out;
    for (const auto value : values) out += (out.empty() ? "" : ", ") + json_value(value);
    return "[" + out + "]";
  };
  return "{\"edges\": " + list(histogram.edges) + ", \"counts\": " + list(histogram.counts) + "}";
}

bool is_evaluation(const nlohmann::json& row) {
  return std::ranges::any_of(row.items(),
                             [](const auto& item) { return item.key().starts_with("eval_"); });
}

}  // namespace

std::string json_line(const std::vector<Metric>& fields) {
  std::string line = "{";
  for (const auto& [name, value] : fields) {
    if (line.size() > 1) line += ", ";
    line += nlohmann::json(name).dump() + ": ";
    line += std::visit([](const auto& v) { return json_value(v); }, value);
  }
  return line + "}";
}

JsonlLog::JsonlLog(const std::filesystem::path& path, std::int64_t keep_through_step,
                   const std::string& number, bool keeps_its_evaluation)
    : path_(path) {
  std::uintmax_t kept_bytes = 0;
  std::int64_t last_step = 0;
  std::ifstream file(path, std::ios::binary);
  for (std::string line; keep_through_step > 0 && std::getline(file, line) && !file.eof();) {
    const auto row = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!row.is_object()) break;
    const auto step = row.find("step");
    if (step == row.end() || !step->is_number_integer()) break;
    const auto at = step->get<std::int64_t>();
    if (at > keep_through_step || at < last_step) break;
    if (at == keep_through_step && !keeps_its_evaluation && is_evaluation(row)) break;
    last_step = at;
    if (const auto found = row.find(number); found != row.end() && found->is_number())
      kept_numbers_.push_back(found->get<double>());
    kept_bytes += line.size() + 1;
  }
  file.close();
  descriptor_ = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (descriptor_ < 0) refuse(path, std::strerror(errno));
  if (ftruncate(descriptor_, static_cast<off_t>(kept_bytes)) != 0) {
    const int error = errno;
    close(descriptor_);
    refuse(path, std::strerror(error));
  }
}

JsonlLog::~JsonlLog() { close(descriptor_); }

void JsonlLog::write(const std::vector<Metric>& fields) { write_line(json_line(fields)); }

void JsonlLog::write_line(const std::string& json) {
  try {
    write_all(descriptor_, json + "\n");
  } catch (const std::system_error& error) {
    refuse(path_, error.code().message());
  }
}

}  // namespace tailor::trainer
