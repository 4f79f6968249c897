#include "trainer/rewards/built_in.hpp"

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <utility>

#include "configs/reader.hpp"
#include "models/files/file_error.hpp"
#include "models/text/regex.hpp"
#include "trainer/rewards/answer_text.hpp"
#include "trainer/rewards/json_schema.hpp"

namespace tailor::trainer {
namespace {

using nlohmann::json;

/// Why a row's samples cannot be judged.
class CannotJudge : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

using Judge = std::function<double(const Judged&)>;

class BuiltInReward : public Reward {
 public:
  BuiltInReward(RewardConfig config, Judge judge)
      : Reward(std::move(config)), judge_(std::move(judge)) {}

  Scores score(std::span<const Judged> samples) override {
    Scores out;
    out.values.resize(samples.size());
    for (std::size_t i = 0; i < samples.size(); ++i) {
      try {
        out.values[i] = judge_(samples[i]);
      } catch (const CannotJudge& error) {
        out.faults.push_back({.index = i, .reason = error.what(), .of_row = true});
      } catch (const models::text::RegexLimit& error) {
        out.faults.push_back({.index = i, .reason = error.what()});
      } catch (const SchemaLimit& error) {
        out.faults.push_back({.index = i, .reason = error.what()});
      }
    }
    return out;
  }

 private:
  Judge judge_;
};

/// The texts of a column: a string, a number, a boolean, or a list of them.
std::vector<std::string> right_answers(const Judged& sample, const std::string& column) {
  const auto columns = json::parse(sample.columns_json, nullptr, /*allow_exceptions=*/false);
  const auto found = columns.is_object() ? columns.find(column) : columns.end();
  if (!columns.is_object() || found == columns.end() || found->is_null())
    throw CannotJudge("the row has no column \"" + column + '"');
  std::vector<std::string> out;
  const auto add = [&](const json& value) {
    if (value.is_string())
      out.push_back(value.get<std::string>());
    else if (value.is_number() || value.is_boolean())
      out.push_back(value.dump());
    else
      throw CannotJudge("the column \"" + column + "\" holds neither text nor a number");
  };
  if (found->is_array())
    for (const auto& value : *found) add(value);
  else
    add(*found);
  if (out.empty()) throw CannotJudge("the column \"" + column + "\" holds an empty list");
  return out;
}

Judge numeric_answer(const RewardConfig& config) {
  return [column = config.column, tolerance = config.tolerance](const Judged& sample) {
    std::vector<Number> right;
    for (const auto& text : right_answers(sample, column))
      if (const auto number = answer_number(text)) right.push_back(*number);
    if (right.empty()) throw CannotJudge("the column \"" + column + "\" holds no number");
    const auto answer = answer_number(sample.completion);
    return answer && std::ranges::any_of(right,
                                         [&](const Number& number) {
                                           return equal_numbers(*answer, number, tolerance);
                                         })
               ? 1.0
               : 0.0;
  };
}

Judge exact_answer(const RewardConfig& config) {
  const Normalisation how{.ignore_case = config.ignore_case,
                          .ignore_punctuation = config.ignore_punctuation};
  return [column = config.column, how](const Judged& sample) {
    const auto answer = [&](std::string_view text) {
      const auto marked = marked_answer(text);
      return normalised(marked ? marked->content : text, how);
    };
    const auto given = answer(sample.completion);
    const auto right = right_answers(sample, column);
    return std::ranges::any_of(right, [&](const auto& text) { return answer(text) == given; })
               ? 1.0
               : 0.0;
  };
}

Judge regex(const RewardConfig& config) {
  try {
    auto pattern = std::make_shared<models::text::Regex>(config.pattern, config.place + ".pattern");
    return [pattern](const Judged& sample) {
      return pattern->found_in(sample.completion) ? 1.0 : 0.0;
    };
  } catch (const models::FileError& error) {
    throw configs::ConfigError(error.what());
  }
}

Judge json_schema(const RewardConfig& config) {
  auto schema = std::make_shared<JsonSchema>(JsonSchema::read(config.schema, config.place));
  return [schema](const Judged& sample) {
    return schema->accepts(json_part(sample.completion)) ? 1.0 : 0.0;
  };
}

/// How often `word` is in `text`, up to two times.
int count_up_to_two(std::string_view text, std::string_view word) {
  const auto first = text.find(word);
  if (first == std::string_view::npos) return 0;
  return text.find(word, first + word.size()) == std::string_view::npos ? 1 : 2;
}

bool is_formatted(std::string_view text, const std::vector<std::string>& tags, bool strict) {
  constexpr std::string_view kSpace = " \t\n\r\f\v";
  const auto is_space = [&](std::string_view part) {
    return part.find_first_not_of(kSpace) == std::string_view::npos;
  };
  std::size_t at = 0;
  for (const auto& tag : tags) {
    const auto open = '<' + tag + '>', close = "</" + tag + '>';
    if (count_up_to_two(text, open) != 1 || count_up_to_two(text, close) != 1) return false;
    const auto begin = text.find(open), end = text.find(close);
    if (begin < at || end < begin + open.size()) return false;
    if (strict && !is_space(text.substr(at, begin - at))) return false;
    at = end + close.size();
  }
  return !strict || is_space(text.substr(at));
}

Judge format_tags(const RewardConfig& config) {
  return [tags = config.tags, strict = config.strict](const Judged& sample) {
    return is_formatted(sample.completion, tags, strict) ? 1.0 : 0.0;
  };
}

Judge length(const RewardConfig& config) {
  return [min = config.min_length, max = config.max_length](const Judged& sample) {
    return sample.num_tokens >= min && (!max || sample.num_tokens <= *max) ? 1.0 : 0.0;
  };
}

Judge overlong(const RewardConfig& config) {
  if (!config.max_length)
    throw configs::ConfigError(config.place + ".max_length: missing; expected a positive integer");
  const auto max = *config.max_length;
  const auto cache =
      config.cache_length > 0 ? config.cache_length : std::max<std::int64_t>(1, max / 5);
  if (cache > max)
    throw configs::ConfigError(config.place + ".cache_length: expected at most max_length (" +
                               std::to_string(max) + "), found " + std::to_string(cache));
  return [max, cache](const Judged& sample) {
    const auto over = std::clamp<std::int64_t>(sample.num_tokens - (max - cache), 0, cache);
    return over == 0 ? 0.0 : -static_cast<double>(over) / static_cast<double>(cache);
  };
}

std::vector<std::string> lower_case_words(std::string_view text) {
  std::vector<std::string> words;
  bool inside = false;
  for (const char c : text) {
    const bool space = c == ' ' || (c >= '\t' && c <= '\r');
    if (!space && !inside) words.emplace_back();
    inside = !space;
    if (inside) words.back() += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return words;
}

Judge repetition(const RewardConfig& config) {
  return [n = static_cast<std::size_t>(config.ngram_size),
          max_penalty = config.max_penalty](const Judged& sample) {
    const auto words = lower_case_words(sample.completion);
    if (words.size() < n) return 0.0;
    std::set<std::span<const std::string>,
             bool (*)(std::span<const std::string>, std::span<const std::string>)>
        distinct([](std::span<const std::string> a, std::span<const std::string> b) {
          return std::ranges::lexicographical_compare(a, b);
        });
    const auto count = words.size() - n + 1;
    for (std::size_t i = 0; i < count; ++i) distinct.insert(std::span(words).subspan(i, n));
    const auto repeated = count - distinct.size();
    // Not -0.
    return repeated == 0 ? 0.0
                         : max_penalty * static_cast<double>(repeated) / static_cast<double>(count);
  };
}

}  // namespace

std::unique_ptr<Reward> make_built_in_reward(const RewardConfig& config) {
  const auto judge = [&]() -> Judge {
    switch (config.kind) {
      case RewardKind::NumericAnswer:
        return numeric_answer(config);
      case RewardKind::ExactAnswer:
        return exact_answer(config);
      case RewardKind::Regex:
        return regex(config);
      case RewardKind::JsonSchema:
        return json_schema(config);
      case RewardKind::FormatTags:
        return format_tags(config);
      case RewardKind::Length:
        return length(config);
      case RewardKind::Overlong:
        return overlong(config);
      case RewardKind::Repetition:
        return repetition(config);
      default:
        throw std::invalid_argument("make_built_in_reward: an external reward");
    }
  }();
  return std::make_unique<BuiltInReward>(config, judge);
}

}  // namespace tailor::trainer
