#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "trainer/report/jsonl_file.hpp"

namespace tailor::trainer {

/// What a step logged under a name: nothing, or a number, which may be NaN or infinite.
using Cell = std::optional<double>;

/// How many samples of a step had a reward between edges[i] and edges[i + 1].
struct RewardHistogram {
  std::int64_t step = 0;
  std::vector<double> edges;   // rising, finite, one more than counts
  std::vector<double> counts;  // 0 or more
};

/// metrics.jsonl, by columns. Lines of one step, such as that of training and that of evaluation,
/// are one row.
struct MetricsTable {
  std::vector<std::int64_t> steps;                   // rising
  std::map<std::string, std::vector<Cell>> columns;  // by name, one cell a step
  std::vector<RewardHistogram> histograms;           // in the order of steps
};

/// Reads every number of every line; texts are left out but for "nan", "inf" and "-inf", which are
/// how metrics.jsonl writes what JSON has no word for. Lines without a step, a torn last line and
/// more than 200 names leave a note. Throws configs::ConfigError where the file cannot be read.
MetricsTable read_metrics(const std::filesystem::path& file, Notes& notes);

/// Adds a column elapsed_s, seconds of training and evaluation since the start, from step_time_s
/// and eval_runtime_s; steps that were not logged count like the next one that was. Without
/// step_time_s there is none.
void add_elapsed_s(MetricsTable& table);

struct Curve {
  std::vector<Cell> values;  // one a point: the mean of its finite values, or what it has
  std::vector<Cell> low,
      high;  // the least and the greatest of a point; empty where points are rows
};

/// A table in as many points as a drawing can show.
struct Curves {
  std::int64_t rows_a_point = 1;
  std::vector<std::int64_t> steps;  // the last of each point
  std::map<std::string, Curve> curves;
};

/// Joins neighbouring rows until there are at most `max_points`. What counts up (num_tokens, epoch,
/// elapsed_s) has the last value of a point.
Curves thinned(const MetricsTable& table, std::size_t max_points);

/// At most `max_histograms`: neighbours are joined. Where their edges differ a count moves by half
/// a bin at most, if bins have one width.
std::vector<RewardHistogram> thinned(std::vector<RewardHistogram> histograms,
                                     std::size_t max_histograms);

}  // namespace tailor::trainer
