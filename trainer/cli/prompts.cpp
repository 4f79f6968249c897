#include "trainer/cli/prompts.hpp"

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>

#include "configs/reader.hpp"
#include "trainer/cli/session.hpp"
#include "trainer/data/line_reader.hpp"
#include "trainer/data/rows.hpp"

namespace tailor::trainer::cli {
namespace {

using configs::ConfigError;
using models::text::Message;
using nlohmann::json;

std::vector<std::int64_t> ids_of(const json& list, const std::string& place) {
  if (!list.is_array() || list.empty())
    throw ConfigError(place + ": input_ids: expected a list of token ids");
  std::vector<std::int64_t> ids;
  ids.reserve(list.size());
  for (const auto& id : list) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() > (std::uint64_t{1} << 40))
      throw ConfigError(place + ": input_ids[" + std::to_string(ids.size()) +
                        "]: expected a token id, found " + id.dump().substr(0, 40));
    ids.push_back(id.get<std::int64_t>());
  }
  return ids;
}

/// Up to the last user turn: what comes behind it is what a model is to write.
std::vector<Message> before_reply(std::vector<Message> messages, const std::string& place) {
  const auto last = std::find_if(messages.rbegin(), messages.rend(),
                                 [](const Message& message) { return message.role == "user"; });
  if (last == messages.rend()) throw ConfigError(place + ": messages: expected a user turn");
  messages.erase(last.base(), messages.end());
  return messages;
}

}  // namespace

PromptMaker::PromptMaker(const models::Pretrained& pretrained, bool as_chat, std::string system)
    : pretrained_(pretrained), as_chat_(as_chat), system_(std::move(system)) {
  if (as_chat_) chat();
}

const models::text::ChatTemplate& PromptMaker::chat() {
  if (!chat_) chat_ = chat_template(pretrained_);
  return *chat_;
}

Prompt PromptMaker::from_ids(std::vector<std::int64_t> ids) const {
  const auto size = pretrained_.tokenizer->size();
  for (const auto id : ids)
    if (id >= size)
      throw ConfigError("token id " + std::to_string(id) + ": the vocabulary ends at " +
                        std::to_string(size - 1));
  auto text = pretrained_.tokenizer->decode(ids);
  return {std::move(text), std::move(ids)};
}

Prompt PromptMaker::from_text(const std::string& text) {
  if (as_chat_) return from_messages({{"user", text}});
  auto ids = pretrained_.tokenizer->encode(text);
  const auto& prefix = pretrained_.tokenizer->spec().prefix_ids;
  if (!std::ranges::equal(prefix, std::span(ids).first(std::min(prefix.size(), ids.size()))))
    ids.insert(ids.begin(), prefix.begin(), prefix.end());
  if (ids.empty()) throw ConfigError("the prompt has no tokens; give some text, or --chat");
  return {text, std::move(ids)};
}

Prompt PromptMaker::from_messages(std::vector<Message> messages) {
  const bool has_system = std::ranges::any_of(
      messages, [](const Message& message) { return message.role == "system"; });
  if (!system_.empty() && !has_system) messages.insert(messages.begin(), {"system", system_});
  return {chat().render(messages, /*add_generation_prompt=*/true),
          chat().encode(messages, /*add_generation_prompt=*/true).ids};
}

Prompt PromptMaker::from_line(const std::string& line, const std::string& place) {
  const auto row = json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!row.is_object()) throw ConfigError(place + ": expected a JSON object on one line");
  // parse_row() checks messages; it finds them under the key of its own format.
  const auto conversation = [&](const json& messages) {
    const auto text =
        json{{"messages", messages}}.dump(-1, ' ', false, json::error_handler_t::replace);
    const auto colon = place.rfind(':');
    const auto parsed = parse_row(text, DataFormat::Messages, place.substr(0, colon),
                                  std::stoll(place.substr(colon + 1)));
    return from_messages(before_reply(parsed.messages, place));
  };
  if (row.contains("messages")) return conversation(row["messages"]);
  for (const char* key : {"prompt", "text"}) {
    if (!row.contains(key)) continue;
    if (row[key].is_string()) return from_text(row[key].get<std::string>());
    if (row[key].is_array() && std::string_view(key) == "prompt") return conversation(row[key]);
    throw ConfigError(place + ": " + key + ": expected text");
  }
  if (row.contains("input_ids")) return from_ids(ids_of(row["input_ids"], place));
  throw ConfigError(place + ": expected one of the keys messages, prompt, text and input_ids");
}

PromptRow PromptMaker::row_from_line(const std::string& line, const std::string& place) {
  auto prompt = from_line(line, place);
  auto row = json::parse(line);
  PromptRow out{.ids = std::move(prompt.ids), .prompt_json = {}, .columns_json = {}};
  const auto dumped = [](const json& value) {
    return value.dump(-1, ' ', false, json::error_handler_t::replace);
  };
  auto asked = row.contains("messages") ? row["messages"]
               : row.contains("prompt") ? row["prompt"]
                                        : json(prompt.text);
  if (asked.is_array())  // what from_line() took: a reply is what is to be learnt
    while (!asked.empty() && asked.back().value("role", "") != "user")
      asked.erase(asked.size() - 1);
  out.prompt_json = dumped(asked);
  for (const auto* key : {"messages", "prompt", "text", "input_ids"}) row.erase(key);
  out.columns_json = dumped(row);
  return out;
}

namespace {

/// What `make` makes of every line of a file that is not blank. Throws ConfigError with the
/// problems of all.
template <typename Row>
std::vector<Row> each_line(const std::filesystem::path& file,
                           const std::function<Row(const std::string&, const std::string&)>& make) {
  std::vector<Row> rows;
  RowProblems problems;
  LineReader reader(file);
  for (std::string line; reader.next(line);) {
    const auto place = file.string() + ":" + std::to_string(reader.line_number());
    if (reader.too_long()) problems.add(place + ": the line is too long");
    if (line.find_first_not_of(" \t") == std::string::npos) continue;
    try {
      rows.push_back(make(line, place));
    } catch (const ConfigError& error) {
      problems.add(file.string(), reader.line_number(), error.what());
    }
  }
  problems.check();
  if (rows.empty()) throw ConfigError(file.string() + ": has no rows");
  return rows;
}

}  // namespace

std::vector<Prompt> PromptMaker::from_file(const std::filesystem::path& file) {
  return each_line<Prompt>(
      file, [&](const auto& line, const auto& place) { return from_line(line, place); });
}

std::vector<PromptRow> PromptMaker::rows_from_file(const std::filesystem::path& file) {
  return each_line<PromptRow>(file, [&](const auto& line, const auto& place) {
    auto row = row_from_line(line, place);
    row.place = file.filename().string() + place.substr(place.rfind(':'));
    return row;
  });
}

std::vector<std::int64_t> PromptMaker::stop_ids() const {
  auto ids = pretrained_.generation.eos_token_id;
  if (const auto eos = pretrained_.tokenizer->spec().eos_id; ids.empty() && eos)
    ids.push_back(*eos);
  if (chat_) ids.push_back(chat_->end_of_turn_id());
  return ids;
}

}  // namespace tailor::trainer::cli
