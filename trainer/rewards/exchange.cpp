#include "trainer/rewards/exchange.hpp"

#include <cmath>
#include <nlohmann/json.hpp>

namespace tailor::trainer {
namespace {

using nlohmann::ordered_json;

constexpr auto kReplace = ordered_json::error_handler_t::replace;

ordered_json parsed(std::string_view text) {
  auto value = ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  return value.is_discarded() ? ordered_json() : value;
}

/// The column of every chosen sample, by name, nulls where a row has none.
ordered_json columns_of(std::span<const Judged> samples, std::span<const std::size_t> chosen) {
  auto out = ordered_json::object();
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    const auto columns = parsed(samples[chosen[i]].columns_json);
    if (!columns.is_object()) continue;
    for (const auto& [name, value] : columns.items()) {
      auto& column = out[name];
      if (column.is_null()) column = ordered_json(chosen.size(), ordered_json());
      column[i] = value;
    }
  }
  return out;
}

/// Squares of larger ones, in a group's deviation, are infinite: the group would learn nothing.
constexpr double kLargestReward = 1e100;

Answer answer_of(const ordered_json& value) {
  if (value.is_null()) return {};
  if (value.is_boolean()) return {.value = value.get<bool>() ? 1.0 : 0.0, .fault = ""};
  if (value.is_number() && std::isfinite(value.get<double>())) {
    if (std::abs(value.get<double>()) <= kLargestReward)
      return {.value = value.get<double>(), .fault = ""};
    return {.value = {}, .fault = "answered " + value.dump() + ", expected at most 1e100 in size"};
  }
  // What our own Python side says of a value that JSON has no word for.
  if (value.is_object() && value.size() == 1 && value.contains("bad") && value["bad"].is_string())
    return {.value = {}, .fault = "answered " + excerpt(value["bad"].get<std::string>())};
  return {.value = {},
          .fault = "answered " + excerpt(value.dump(-1, ' ', false, kReplace)) +
                   ", expected a number or null"};
}

}  // namespace

std::string batch_request(std::span<const Judged> samples, std::span<const std::size_t> chosen) {
  auto request = columns_of(samples, chosen);
  auto prompts = ordered_json::array(), completions = ordered_json::array();
  for (const auto index : chosen) {
    prompts.push_back(parsed(samples[index].prompt_json));
    const auto& text = samples[index].completion;
    if (prompts.back().is_array())
      completions.push_back(
          ordered_json::array({ordered_json{{"role", "assistant"}, {"content", text}}}));
    else
      completions.push_back(text);
  }
  request["prompts"] = std::move(prompts);
  request["completions"] = std::move(completions);
  return request.dump(-1, ' ', /*ensure_ascii=*/true, kReplace);
}

std::string single_request(const Judged& sample) {
  auto request = parsed(sample.columns_json);
  if (!request.is_object()) request = ordered_json::object();
  request["prompt"] = parsed(sample.prompt_json);
  request["completion"] = sample.completion;
  return request.dump(-1, ' ', /*ensure_ascii=*/true, kReplace);
}

BatchAnswer read_batch_answer(std::string_view text, std::size_t num_samples) {
  const auto answer = parsed(text);
  if (answer.is_object() && answer.contains("error"))
    return {.answers = {},
            .fault = answer["error"].is_string()
                         ? excerpt(answer["error"].get_ref<const std::string&>())
                         : excerpt(answer["error"].dump(-1, ' ', false, kReplace))};
  const auto rewards = answer.is_object() ? answer.find("rewards") : answer.end();
  if (!answer.is_object() || rewards == answer.end() || !rewards->is_array())
    return {.answers = {},
            .fault = "answered " + excerpt(text) + ", expected {\"rewards\": [...]}"};
  if (rewards->size() != num_samples)
    return {.answers = {},
            .fault = "answered " + std::to_string(rewards->size()) + " rewards for " +
                     std::to_string(num_samples) + (num_samples == 1 ? " sample" : " samples")};
  BatchAnswer out;
  for (const auto& value : *rewards) out.answers.push_back(answer_of(value));
  return out;
}

Answer read_single_answer(std::string_view text) {
  const auto answer = ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (answer.is_discarded() || (answer.is_object() && !answer.contains("reward")))
    return {.value = {},
            .fault = "answered " + excerpt(text) + ", expected {\"reward\": ...} or a number"};
  return answer_of(answer.is_object() ? answer["reward"] : answer);
}

std::string excerpt(std::string_view text) {
  constexpr std::size_t kMaxBytes = 200;
  // The dump of a string escapes what is not printable and replaces what is no UTF-8.
  auto out = ordered_json(text.substr(0, kMaxBytes)).dump(-1, ' ', false, kReplace);
  out = out.substr(1, out.size() - 2);
  std::string plain;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const bool escaped = out[i] == '\\' && i + 1 < out.size() && (out[i + 1] == '"');
    if (!escaped) plain += out[i];
  }
  return plain + (text.size() > kMaxBytes ? "..." : "");
}

}  // namespace tailor::trainer
