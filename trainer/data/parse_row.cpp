#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <stdexcept>

#include "trainer/data/rows.hpp"

namespace tailor::trainer {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 64;  // of nested values: far more than data has, far less than hurts
constexpr std::size_t kMaxReasonBytes = 200;

/// Why a row is refused, without its place.
class BadRow : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::string describe(const json& value) {
  switch (value.type()) {
    case json::value_t::null:
      return "null";
    case json::value_t::object:
      return "a mapping";
    case json::value_t::array:
      return value.empty() ? "an empty list" : "a list";
    case json::value_t::string:
      return "text";
    case json::value_t::boolean:
      return value.get<bool>() ? "true" : "false";
    default:
      return value.dump();
  }
}

/// nlohmann-json's message without its own prefix and without bytes that a terminal cannot show.
std::string syntax_reason(const std::string& what) {
  std::string reason = what;
  if (const auto column = reason.find("column "); column != std::string::npos)
    reason.erase(0, column);
  if (const auto read = reason.find("; last read"); read != std::string::npos) {
    const auto printable = [](char c) { return c >= ' ' && c <= '~'; };
    if (reason.size() > kMaxReasonBytes ||
        !std::all_of(reason.begin() + static_cast<std::ptrdiff_t>(read), reason.end(), printable))
      reason.erase(read);
  }
  if (reason.find("unexpected end of input") != std::string::npos)
    reason += "; a row stands on one line";
  return "no valid JSON: " + reason;
}

json parse_object(std::string_view text) {
  std::set<std::string> keys;
  const auto guard = [&keys](int depth, json::parse_event_t event, json& parsed) {
    if (depth > kMaxDepth)
      throw BadRow("values are nested deeper than " + std::to_string(kMaxDepth) + " levels");
    if (event == json::parse_event_t::key && depth == 1 &&
        !keys.insert(parsed.get<std::string>()).second)
      throw BadRow("the key " + parsed.dump() + " stands twice");
    return true;
  };
  json row;
  try {
    row = json::parse(text, guard);
  } catch (const json::exception& error) {
    throw BadRow(syntax_reason(error.what()));
  }
  if (!row.is_object()) throw BadRow("expected an object, found " + describe(row));
  return row;
}

/// The format that a row's keys speak of, in words for a message; "" for none that is known.
std::string apparent_format(const json& row) {
  if (row.contains("messages")) return "a row of format messages";
  if (row.contains("conversations"))
    return "conversations (ShareGPT): rename it to messages, from to role (human: user, gpt: "
           "assistant) and value to content";
  if (row.contains("prompt") && row.contains("completion"))
    return "a row of format prompt_completion";
  if (row.contains("instruction") && row.contains("output"))
    return "instruction and output (Alpaca): write prompt and completion";
  if (row.contains("chosen") && row.contains("rejected"))
    return "chosen and rejected (preference pairs), which supervised training does not take";
  if (row.contains("input_ids")) return "a row of format tokens";
  if (row.contains("text")) return "a row of format text";
  return {};
}

std::string key_list(const json& row) {
  if (row.empty()) return "an empty object";
  std::string list = "the keys";
  std::size_t shown = 0;
  for (const auto& [key, value] : row.items()) {
    if (++shown > 8) return list + " ...";
    list += (shown == 1 ? " " : ", ") + key.substr(0, 40);
  }
  return list;
}

const json& required(const json& row, const char* key) {
  const auto found = row.find(key);
  if (found != row.end()) return *found;
  const auto format = apparent_format(row);
  throw BadRow(std::string("expected the key ") + key + ", found " +
               (format.empty() ? key_list(row) : format));
}

std::string text_of(const json& row, const char* key) {
  const json& value = required(row, key);
  if (value.is_string()) return value.get<std::string>();
  if (value.is_array() && !value.empty() && value[0].is_object() && value[0].contains("role"))
    throw BadRow(std::string(key) +
                 ": expected text, found a list of messages; put all turns into messages and set "
                 "format: messages");
  throw BadRow(std::string(key) + ": expected text, found " + describe(value));
}

bool says_something(const json& row, const char* key) {
  const auto found = row.find(key);
  return found != row.end() && !found->is_null() && !found->empty();
}

models::text::Message message_of(const json& message, const std::string& place) {
  if (!message.is_object())
    throw BadRow(place + ": expected a mapping of role and content, found " + describe(message));
  // Left out, a call would silently teach the model to answer without it.
  if (says_something(message, "tool_calls"))
    throw BadRow(place + ".tool_calls: tool calls are not supported");
  for (const char* key : {"role", "content"}) {
    const auto found = message.find(key);
    if (found == message.end())
      throw BadRow(place + ": expected the key " + key + ", found " + key_list(message));
    if (!found->is_string())
      throw BadRow(place + "." + key + ": expected text, found " + describe(*found));
  }
  const auto role = message["role"].get<std::string>();
  if (role != "system" && role != "user" && role != "assistant" && role != "tool")
    throw BadRow(place + ".role: expected system, user, assistant or tool, found \"" +
                 role.substr(0, 40) + "\"");
  return {role, message["content"].get<std::string>()};
}

std::vector<models::text::Message> messages_of(const json& row) {
  const json& list = required(row, "messages");
  if (!list.is_array() || list.empty())
    throw BadRow("messages: expected a list of messages, found " + describe(list));
  if (says_something(row, "tools")) throw BadRow("tools: tool definitions are not supported");
  std::vector<models::text::Message> messages;
  messages.reserve(list.size());
  for (std::size_t i = 0; i < list.size(); ++i)
    messages.push_back(message_of(list[i], "messages[" + std::to_string(i) + "]"));
  return messages;
}

/// An integer that fits, absent otherwise: nlohmann-json would convert 1.7 and 2^64 - 1 in silence.
std::optional<std::int64_t> integer_of(const json& value) {
  if (!value.is_number_integer()) return {};
  if (value.is_number_unsigned() &&
      value.get<std::uint64_t>() > std::uint64_t{std::numeric_limits<std::int64_t>::max()})
    return {};
  return value.get<std::int64_t>();
}

Example tokens_of(const json& row) {
  const json& ids = required(row, "input_ids");
  const json& labels = required(row, "labels");
  if (!ids.is_array() || ids.empty())
    throw BadRow("input_ids: expected a list of token ids, found " + describe(ids));
  if (!labels.is_array())
    throw BadRow("labels: expected a list of token ids, found " + describe(labels));
  if (labels.size() != ids.size())
    throw BadRow("labels: expected " + std::to_string(ids.size()) +
                 " entries, as many as input_ids, found " + std::to_string(labels.size()));
  Example example;
  example.ids.reserve(ids.size());
  example.labels.reserve(ids.size());
  for (std::size_t t = 0; t < ids.size(); ++t) {
    const auto place = "[" + std::to_string(t) + "]: expected ";
    const auto id = integer_of(ids[t]);
    if (!id || *id < 0) throw BadRow("input_ids" + place + "a token id, found " + describe(ids[t]));
    const auto label = integer_of(labels[t]);
    if (!label || (*label != kIgnore && *label != *id))
      throw BadRow("labels" + place + "-100 or the token's id " + std::to_string(*id) +
                   " (labels are not shifted), found " + describe(labels[t]));
    example.ids.push_back(*id);
    example.labels.push_back(*label);
  }
  return example;
}

}  // namespace

const char* format_name(DataFormat format) {
  switch (format) {
    case DataFormat::Messages:
      return "messages";
    case DataFormat::PromptCompletion:
      return "prompt_completion";
    case DataFormat::Text:
      return "text";
    case DataFormat::Tokens:
      return "tokens";
  }
  return "";
}

Row parse_row(std::string_view json_text, DataFormat format, const std::string& file,
              std::int64_t line) {
  try {
    const json row = parse_object(json_text);
    Row result;
    result.line = line;
    switch (format) {
      case DataFormat::Messages:
        result.messages = messages_of(row);
        break;
      case DataFormat::PromptCompletion:
        result.prompt = text_of(row, "prompt");
        result.completion = text_of(row, "completion");
        break;
      case DataFormat::Text:
        result.text = text_of(row, "text");
        break;
      case DataFormat::Tokens:
        result.tokens = tokens_of(row);
        break;
    }
    return result;
  } catch (const BadRow& bad) {
    throw configs::ConfigError(file + ":" + std::to_string(line) + ": " + bad.what());
  }
}

}  // namespace tailor::trainer
