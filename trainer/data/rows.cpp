#include "trainer/data/rows.hpp"

#include <algorithm>

#include "trainer/data/line_reader.hpp"

namespace tailor::trainer {
namespace {

constexpr std::size_t kShownProblems = 20;

std::string_view trimmed(std::string_view line) {
  const auto first = line.find_first_not_of(" \t\r\f\v");
  if (first == std::string_view::npos) return {};
  return line.substr(first, line.find_last_not_of(" \t\r\f\v") - first + 1);
}

/// What a file is that is plainly no JSONL file, "" where its first line may be a row.
std::string other_kind(std::string_view first_line) {
  if (first_line.starts_with("PAR1")) return "a Parquet file";
  if (first_line.starts_with("\x1F\x8B")) return "a gzip file (decompress it first)";
  if (first_line.starts_with("\xFF\xFE") || first_line.starts_with("\xFE\xFF"))
    return "UTF-16 text (save it as UTF-8)";
  const auto text = trimmed(first_line);
  if (text.starts_with('[')) return "a JSON list (jq -c '.[]' FILE makes lines of it)";
  if (text == "{") return "an object over several lines (jq -c . FILE puts each on one line)";
  return {};
}

}  // namespace

void RowProblems::add(std::string problem) {
  ++count_;
  if (first_.size() < kShownProblems) first_.push_back(std::move(problem));
}

void RowProblems::check() const {
  if (empty()) return;
  std::string text;
  for (const auto& problem : first_) text += (text.empty() ? "" : "\n") + problem;
  if (const auto others = count_ - static_cast<std::int64_t>(first_.size()); others > 0)
    text += "\n... and " + std::to_string(others) + " more";
  throw configs::ConfigError(text);
}

void visit_rows(const DataFile& file, RowProblems& problems,
                const std::function<void(Row&&)>& visit) {
  const auto name = file.path.string();
  const auto place = file.place.empty() ? "" : file.place + ": ";
  try {
    LineReader lines(file.path);
    std::string line;
    bool any = false;
    while (lines.next(line)) {
      const auto number = lines.line_number();
      if (lines.too_long()) {
        problems.add(name + ":" + std::to_string(number) + ": the line is longer than " +
                     std::to_string(kMaxLineBytes >> 20) + " MiB");
        any = true;
        continue;
      }
      if (trimmed(line).empty()) continue;
      if (const auto kind = any ? "" : other_kind(line); !kind.empty()) {
        problems.add(place + name + ": expected JSON lines, one object a line, found " + kind);
        return;
      }
      any = true;
      try {
        visit(parse_row(line, file.format, name, number));
      } catch (const configs::ConfigError& error) {
        problems.add(error.what());
      }
    }
    if (!any) problems.add(place + name + ": the file holds no rows");
  } catch (const configs::ConfigError& error) {
    problems.add(place + error.what());
  }
}

std::vector<Row> read_rows(const DataFile& file) {
  std::vector<Row> rows;
  RowProblems problems;
  visit_rows(file, problems, [&](Row&& row) { rows.push_back(std::move(row)); });
  problems.check();
  return rows;
}

}  // namespace tailor::trainer
