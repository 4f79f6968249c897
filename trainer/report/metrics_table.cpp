#include "trainer/report/metrics_table.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

namespace tailor::trainer {
namespace {

using Json = nlohmann::json;
using Row = std::map<std::string, double>;

constexpr std::size_t kMaxColumns = 200;  // a run logs some thirty names
constexpr std::size_t kMaxBins = 1000;

Cell number_of(const Json& value) {
  if (value.is_number()) return value.get<double>();
  if (!value.is_string()) return std::nullopt;
  const auto& text = value.get_ref<const std::string&>();
  if (text == "nan") return std::numeric_limits<double>::quiet_NaN();
  if (text == "inf") return std::numeric_limits<double>::infinity();
  if (text == "-inf") return -std::numeric_limits<double>::infinity();
  return std::nullopt;
}

std::optional<std::vector<double>> finite_numbers(const Json& object, const char* key) {
  if (!object.is_object()) return std::nullopt;
  const auto list = object.find(key);
  if (list == object.end() || !list->is_array() || list->size() > kMaxBins + 1) return std::nullopt;
  std::vector<double> numbers;
  for (const auto& value : *list) {
    if (!value.is_number() || !std::isfinite(value.get<double>())) return std::nullopt;
    numbers.push_back(value.get<double>());
  }
  return numbers;
}

bool is_histogram(const RewardHistogram& histogram) {
  return !histogram.counts.empty() && histogram.edges.size() == histogram.counts.size() + 1 &&
         std::ranges::is_sorted(histogram.edges) &&
         std::ranges::all_of(histogram.counts, [](double count) { return count >= 0; });
}

/// Of {"edges": [...], "counts": [...]}; none where it is not usable.
std::optional<RewardHistogram> histogram_of(std::int64_t step, const Json& value) {
  auto edges = finite_numbers(value, "edges");
  auto counts = finite_numbers(value, "counts");
  if (!edges || !counts) return std::nullopt;
  RewardHistogram histogram{step, std::move(*edges), std::move(*counts)};
  return is_histogram(histogram) ? std::optional(std::move(histogram)) : std::nullopt;
}

/// The two in one, in bins that both fit into; where their edges differ a count goes to the bin
/// that holds the middle of its own.
RewardHistogram joined(const RewardHistogram& a, const RewardHistogram& b) {
  RewardHistogram out{b.step, b.edges, b.counts};
  if (a.edges == b.edges) {
    for (std::size_t i = 0; i < out.counts.size(); ++i) out.counts[i] += a.counts[i];
    return out;
  }
  const auto bins = std::max(a.counts.size(), b.counts.size());
  const double low = std::min(a.edges.front(), b.edges.front());
  const double width = (std::max(a.edges.back(), b.edges.back()) - low) / static_cast<double>(bins);
  out.edges.clear();
  for (std::size_t i = 0; i <= bins; ++i) out.edges.push_back(low + width * static_cast<double>(i));
  out.counts.assign(bins, 0.0);
  for (const auto* from : {&a, &b}) {
    for (std::size_t i = 0; i < from->counts.size(); ++i) {
      const double middle = from->edges[i] / 2 + from->edges[i + 1] / 2;
      const double at = width > 0 ? (middle - low) / width : 0.0;
      out.counts[std::min(static_cast<std::size_t>(at), bins - 1)] += from->counts[i];
    }
  }
  return out;
}

std::optional<std::int64_t> step_of(const Json& row) {
  if (!row.is_object()) return std::nullopt;
  const auto step = row.find("step");
  if (step == row.end() || !step->is_number()) return std::nullopt;
  const auto number = step->get<double>();
  constexpr double kMaxExact = 9007199254740992.0;  // 2^53, the last whole number of the page
  if (!(number >= 0 && number <= kMaxExact)) return std::nullopt;
  return static_cast<std::int64_t>(number);
}

MetricsTable table_of(const std::map<std::int64_t, Row>& rows, Notes& notes,
                      const std::string& file) {
  MetricsTable table;
  std::size_t left_out = 0;
  for (const auto& [step, row] : rows) {
    table.steps.push_back(step);
    for (const auto& [name, number] : row) {
      auto column = table.columns.find(name);
      if (column == table.columns.end()) {
        if (table.columns.size() == kMaxColumns) {
          ++left_out;
          continue;
        }
        column = table.columns.try_emplace(name).first;
      }
      column->second.resize(table.steps.size() - 1);
      column->second.emplace_back(number);
    }
  }
  for (auto& column : table.columns) column.second.resize(table.steps.size());
  if (left_out > 0) {
    notes.push_back(file + ": only the first " + std::to_string(kMaxColumns) +
                    " names have a curve; " + std::to_string(left_out) +
                    " values of others are left out");
  }
  return table;
}

/// The rows of a point that have a number, as one number, its least and its greatest.
struct Sum {
  double sum = 0.0, low = 0.0, high = 0.0, last = 0.0;
  std::int64_t finite = 0;
  Cell odd;  // a NaN or an infinity, shown where nothing else is

  void add(double value) {
    last = value;
    if (!std::isfinite(value)) {
      odd = value;
      return;
    }
    low = finite == 0 ? value : std::min(low, value);
    high = finite == 0 ? value : std::max(high, value);
    sum += value;
    ++finite;
  }
};

bool counts_up(const std::string& name) {
  return name == "num_tokens" || name == "epoch" || name == "elapsed_s";
}

Curve thinned(const std::string& name, const std::vector<Cell>& cells, std::size_t rows_a_point) {
  Curve curve;
  for (std::size_t begin = 0; begin < cells.size(); begin += rows_a_point) {
    Sum sum;
    const auto end = std::min(begin + rows_a_point, cells.size());
    for (std::size_t i = begin; i < end; ++i) {
      if (cells[i]) sum.add(*cells[i]);
    }
    if (sum.finite == 0) {
      for (auto* list : {&curve.values, &curve.low, &curve.high}) list->push_back(sum.odd);
      continue;
    }
    const bool last = counts_up(name) && std::isfinite(sum.last);
    curve.values.emplace_back(last ? sum.last : sum.sum / static_cast<double>(sum.finite));
    curve.low.emplace_back(sum.low);
    curve.high.emplace_back(sum.high);
  }
  return curve;
}

}  // namespace

MetricsTable read_metrics(const std::filesystem::path& file, Notes& notes) {
  JsonlFile lines(file);
  std::map<std::int64_t, Row> rows;
  std::map<std::int64_t, RewardHistogram> histograms;
  std::int64_t broken_histograms = 0;
  for (std::string line; lines.next(line);) {
    const auto json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    const auto step = step_of(json);
    if (!step) {
      lines.leave_out(lines.line_number());
      continue;
    }
    auto& row = rows[*step];
    for (const auto& [name, value] : json.items()) {
      if (name == "step") continue;
      if (const auto number = number_of(value)) row.insert_or_assign(name, *number);
    }
    const auto found = json.find("reward_histogram");
    if (found == json.end() || found->is_null()) continue;
    if (auto histogram = histogram_of(*step, *found)) {
      histograms.insert_or_assign(*step, std::move(*histogram));
    } else {
      ++broken_histograms;
    }
  }
  lines.tell(notes);
  const auto name = file.filename().string();
  if (broken_histograms > 0) {
    notes.push_back(name + ": reward_histogram of " + std::to_string(broken_histograms) +
                    (broken_histograms == 1 ? " line is" : " lines are") +
                    " left out: expected {edges: [rising, n + 1], counts: [n]}");
  }
  auto table = table_of(rows, notes, name);
  for (auto& entry : histograms) table.histograms.push_back(std::move(entry.second));
  return table;
}

void add_elapsed_s(MetricsTable& table) {
  const auto steps = table.columns.find("step_time_s");
  if (steps == table.columns.end()) return;
  const auto evals = table.columns.find("eval_runtime_s");
  std::vector<Cell> out;
  double sum = 0.0;
  std::int64_t before = 0;
  for (std::size_t i = 0; i < table.steps.size(); ++i) {
    if (const auto time = steps->second[i]; time && std::isfinite(*time)) {
      sum += *time * static_cast<double>(table.steps[i] - before);
      before = table.steps[i];
    }
    if (evals != table.columns.end()) {
      if (const auto time = evals->second[i]; time && std::isfinite(*time)) sum += *time;
    }
    out.emplace_back(sum);
  }
  table.columns.insert_or_assign("elapsed_s", std::move(out));
}

Curves thinned(const MetricsTable& table, std::size_t max_points) {
  Curves out;
  const auto rows = table.steps.size();
  const auto rows_a_point = std::max<std::size_t>(1, (rows + max_points - 1) / max_points);
  out.rows_a_point = static_cast<std::int64_t>(rows_a_point);
  for (std::size_t begin = 0; begin < rows; begin += rows_a_point)
    out.steps.push_back(table.steps[std::min(begin + rows_a_point, rows) - 1]);
  for (const auto& [name, cells] : table.columns) {
    out.curves[name] =
        rows_a_point == 1 ? Curve{cells, {}, {}} : thinned(name, cells, rows_a_point);
  }
  return out;
}

std::vector<RewardHistogram> thinned(std::vector<RewardHistogram> histograms,
                                     std::size_t max_histograms) {
  if (histograms.size() <= max_histograms) return histograms;
  const auto neighbours = (histograms.size() + max_histograms - 1) / max_histograms;
  std::vector<RewardHistogram> out;
  for (std::size_t i = 0; i < histograms.size(); ++i) {
    if (i % neighbours == 0) {
      out.push_back(std::move(histograms[i]));
    } else {
      out.back() = joined(out.back(), histograms[i]);
    }
  }
  return out;
}

}  // namespace tailor::trainer
