#include "trainer/report/page_data.hpp"

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "trainer/report/page.hpp"

namespace tailor::trainer {
namespace {

using Json = nlohmann::ordered_json;

template <typename T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json();
}

Json number_json(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  constexpr double kMaxExact = 9007199254740992.0;  // 2^53
  if (value == std::trunc(value) && std::abs(value) < kMaxExact)
    return static_cast<std::int64_t>(value);
  std::array<char, 32> digits{};
  std::snprintf(digits.data(), digits.size(), "%.7g", value);
  return std::strtod(digits.data(), nullptr);
}

Json numbers_json(const std::vector<double>& numbers) {
  Json out = Json::array();
  for (const double number : numbers) out.push_back(number_json(number));
  return out;
}

Json cells_json(const std::vector<Cell>& cells) {
  Json out = Json::array();
  for (const auto& cell : cells) out.push_back(cell ? number_json(*cell) : Json());
  return out;
}

Json curves_json(const Curves& curves) {
  Json columns = Json::object();
  for (const auto& [name, curve] : curves.curves) {
    Json column = {{"values", cells_json(curve.values)}};
    if (!curve.low.empty()) {
      column["low"] = cells_json(curve.low);
      column["high"] = cells_json(curve.high);
    }
    columns[name] = std::move(column);
  }
  return {{"rows_a_point", curves.rows_a_point},
          {"steps", curves.steps},
          {"columns", std::move(columns)}};
}

Json histograms_json(const std::vector<RewardHistogram>& histograms) {
  Json out = Json::array();
  for (const auto& histogram : histograms) {
    out.push_back({{"step", histogram.step},
                   {"edges", numbers_json(histogram.edges)},
                   {"counts", numbers_json(histogram.counts)}});
  }
  return out;
}

Json job_json(const JobFacts& job) {
  return {{"task", job.task},
          {"model", job.model},
          {"dtype", job.dtype},
          {"target_modules", job.target_modules},
          {"r", or_null(job.r)},
          {"lora_alpha", or_null(job.lora_alpha)},
          {"max_steps", or_null(job.max_steps)},
          {"learning_rate", or_null(job.learning_rate)},
          {"text", job.text}};
}

Json adapter_json(const AdapterFacts& adapter) {
  return {{"kind", adapter.kind},
          {"tensors", adapter.num_tensors},
          {"parameters", adapter.num_parameters},
          {"bytes", adapter.num_bytes}};
}

Json checkpoints_json(const std::vector<CheckpointFacts>& checkpoints) {
  Json out = Json::array();
  for (const auto& checkpoint : checkpoints)
    out.push_back({{"name", checkpoint.name}, {"bytes", checkpoint.num_bytes}});
  return out;
}

Json totals_json(const Totals& totals) {
  return {{"steps", or_null(totals.steps)},
          {"first_loss", or_null(totals.first_loss)},
          {"last_loss", or_null(totals.last_loss)},
          {"first_reward", or_null(totals.first_reward)},
          {"last_reward", or_null(totals.last_reward)},
          {"last_eval_loss", or_null(totals.last_eval_loss)},
          {"best_eval_loss", or_null(totals.best_eval_loss)},
          {"best_eval_step", or_null(totals.best_eval_step)},
          {"num_tokens", or_null(totals.num_tokens)},
          {"elapsed_s", or_null(totals.elapsed_s)},
          {"tokens_per_second", or_null(totals.tokens_per_second)},
          {"peak_rss_bytes", or_null(totals.peak_rss_bytes)}};
}

}  // namespace

std::string page_json(const PageData& data) {
  const Json json = {{"name", data.name},
                     {"written", data.written},
                     {"job", data.job ? job_json(*data.job) : Json()},
                     {"adapter", data.adapter ? adapter_json(*data.adapter) : Json()},
                     {"checkpoints", checkpoints_json(data.checkpoints)},
                     {"totals", totals_json(data.totals)},
                     {"metrics", curves_json(data.curves)},
                     {"histograms", histograms_json(data.histograms)},
                     {"notes", data.notes},
                     {"num_samples", data.samples ? Json(data.samples->total) : Json()}};
  auto text = script_safe(json.dump(-1, ' ', false, Json::error_handler_t::replace));
  // The samples are JSON already.
  text.back() = ',';
  text += "\"samples\":[";
  if (data.samples) {
    bool first = true;
    for (const auto& item : data.samples->items_json) {
      if (!first) text += ",\n";
      text += item;
      first = false;
    }
  }
  return text + "]}";
}

}  // namespace tailor::trainer
