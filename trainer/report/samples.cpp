#include "trainer/report/samples.hpp"

#include <cmath>
#include <deque>
#include <nlohmann/json.hpp>
#include <utility>

#include "trainer/report/page.hpp"

namespace tailor::trainer {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxMessages = 64, kMaxColumns = 32;
constexpr std::size_t kMaxRewards = 64, kMaxColumnBytes = 4096;
constexpr std::size_t kMaxNameBytes = 200;
constexpr std::size_t kMaxHeldBytes = std::size_t{64} << 20;  // of lines that wait to be parsed

std::string dump(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string cut(std::string text, std::size_t max_bytes) {
  if (text.size() <= max_bytes) return text;
  auto end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;  // UTF-8
  const auto missing = text.size() - end;
  text.resize(end);
  return text + "\n[... " + std::to_string(missing) + " more bytes are not in this page]";
}

std::string text_of(const Json& value, std::size_t max_bytes) {
  return cut(value.is_string() ? value.get<std::string>() : dump(value), max_bytes);
}

/// A number, or the word that metrics.jsonl has for one that JSON cannot hold; otherwise null.
Json number_of(const Json& value) {
  if (value.is_number()) return value;
  if (value == "nan" || value == "inf" || value == "-inf") return value;
  return nullptr;
}

bool is_messages(const Json& value) {
  if (!value.is_array() || value.empty()) return false;
  return std::ranges::all_of(value, [](const Json& message) {
    return message.is_object() && message.contains("role") && message.contains("content");
  });
}

Json messages_of(const Json& value, std::size_t max_bytes) {
  Json messages = Json::array();
  for (const auto& message : value) {
    if (messages.size() == kMaxMessages) {
      messages.push_back({{"role", "..."},
                          {"content", std::to_string(value.size() - kMaxMessages) +
                                          " more messages are not in this page"}});
      break;
    }
    messages.push_back({{"role", text_of(message["role"], kMaxNameBytes)},
                        {"content", text_of(message["content"], max_bytes)}});
  }
  return messages;
}

/// A completion of one assistant message is its text.
std::string completion_of(const Json& value, std::size_t max_bytes) {
  if (is_messages(value) && value.size() == 1) return text_of(value[0]["content"], max_bytes);
  return text_of(value, max_bytes);
}

Json rewards_of(const Json& value) {
  Json rewards = Json::object();
  for (const auto& [name, reward] : value.items()) {
    if (rewards.size() == kMaxRewards) break;
    rewards[cut(name, kMaxNameBytes)] = number_of(reward);
  }
  return rewards;
}

void add_column(const std::string& name, const Json& value, Json& columns) {
  if (columns.size() < kMaxColumns)
    columns[cut(name, kMaxNameBytes)] = text_of(value, kMaxColumnBytes);
}

Json item_of(const Json& sample, std::size_t max_text_bytes) {
  Json item = Json::object(), columns = Json::object();
  for (const auto& [name, value] : sample.items()) {
    if (name == "prompt") {
      item["prompt"] = is_messages(value) ? messages_of(value, max_text_bytes)
                                          : Json(text_of(value, max_text_bytes));
    } else if (name == "completion") {
      item["completion"] = completion_of(value, max_text_bytes);
    } else if (name == "rewards" && value.is_object()) {
      item["rewards"] = rewards_of(value);
    } else if (name == "step" || name == "group" || name == "reward" || name == "advantage" ||
               name == "num_tokens") {
      if (auto number = number_of(value); !number.is_null()) item[name] = std::move(number);
    } else if (name == "finish_reason" && value.is_string()) {
      item["finish_reason"] = text_of(value, kMaxNameBytes);
    } else if (name == "columns" && value.is_object()) {
      for (const auto& [column, content] : value.items()) add_column(column, content, columns);
    } else {
      add_column(name, value, columns);
    }
  }
  if (!columns.empty()) item["columns"] = std::move(columns);
  return item;
}

bool is_sample(const Json& json) { return json.is_object() && json.contains("completion"); }

}  // namespace

Samples read_samples(const std::filesystem::path& file, const SampleLimits& limits, Notes& notes) {
  // Only the last lines are parsed: a long run writes gigabytes.
  struct Line {
    std::string text;
    std::int64_t number;
  };
  JsonlFile lines(file);
  std::deque<Line> latest;
  std::size_t held_bytes = 0;
  Samples samples;
  for (std::string line; lines.next(line);) {
    ++samples.total;
    held_bytes += line.size();
    latest.push_back({line, lines.line_number()});
    while (latest.size() > limits.max_samples + 1 ||
           (held_bytes > kMaxHeldBytes && latest.size() > 1)) {
      held_bytes -= latest.front().text.size();
      latest.pop_front();
    }
  }
  std::deque<std::string> items;  // from the newest back
  std::size_t bytes = 0;
  for (auto line = latest.rbegin(); line != latest.rend(); ++line) {
    const auto json = Json::parse(line->text, nullptr, /*allow_exceptions=*/false);
    if (!is_sample(json)) {
      lines.leave_out(line->number);
      --samples.total;
      continue;
    }
    if (items.size() == limits.max_samples) break;
    auto item = script_safe(dump(item_of(json, limits.max_text_bytes)));
    bytes += item.size();
    if (bytes > limits.max_bytes && !items.empty()) break;
    items.push_front(std::move(item));
  }
  lines.tell(notes);
  samples.items_json.assign(std::make_move_iterator(items.begin()),
                            std::make_move_iterator(items.end()));
  if (samples.num_left_out() > 0) {
    notes.push_back(file.filename().string() + ": of " + std::to_string(samples.total) +
                    " samples the page shows the latest " +
                    std::to_string(samples.items_json.size()));
  }
  return samples;
}

}  // namespace tailor::trainer
