#include "trainer/data/rows.hpp"

#include <algorithm>

#include "trainer/data/line_reader.hpp"

namespace tailor::trainer {
namespace {

constexpr std::size_t kShownProblems = 20, kShownLines = 8;
constexpr std::size_t kShownBytes = 160;  // of a row

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

/// A row for a message: cut between characters, without what would steer a terminal.
std::string beginning(std::string_view row) {
  auto size = std::min(row.size(), kShownBytes);
  while (size > 0 && size < row.size() && (static_cast<unsigned char>(row[size]) & 0xC0U) == 0x80U)
    --size;
  std::string text(row.substr(0, size));
  for (auto& c : text)
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7F) c = '?';
  return text + (size < row.size() ? " ..." : "");
}

/// What such a row looks like, and the format that would take it.
std::string hint_of(std::string_view line, const DataFile& file) {
  auto text = "a row begins " + beginning(trimmed(line));
  for (const auto format :
       {DataFormat::Messages, DataFormat::PromptCompletion, DataFormat::Text, DataFormat::Tokens}) {
    if (format == file.format) continue;
    try {
      parse_row(line, format, "", 0);
    } catch (const configs::ConfigError&) {
      continue;
    }
    const auto name = std::string(format_name(format));
    return text + "\n  " + (file.place.empty() ? "" : file.place + ": ") + "its format is " + name +
           ", not " + format_name(file.format) + "; write format: " + name;
  }
  return text;
}

std::string list_of(const std::vector<std::int64_t>& lines, std::int64_t count) {
  std::string text = "lines ";
  for (std::size_t i = 0; i < lines.size(); ++i)
    text += (i == 0 ? "" : ", ") + std::to_string(lines[i]);
  return text + (count > static_cast<std::int64_t>(lines.size()) ? " ..." : "");
}

}  // namespace

void RowProblems::add(std::string problem) { add("", 0, std::move(problem)); }

void RowProblems::add(const std::string& file, std::int64_t line, std::string text,
                      const std::function<std::string()>& hint) {
  const auto place = file + ':' + std::to_string(line) + ": ";
  if (text.starts_with(place)) text.erase(0, place.size());
  const auto key = file + '\0' + text;
  auto found = places_.find(key);
  if (found == places_.end()) {
    if (kinds_.size() == kShownProblems) {
      ++num_others_;
      return;
    }
    found = places_.emplace(key, kinds_.size()).first;
    kinds_.push_back({file, std::move(text), hint ? hint() : std::string(), {}, 0});
  }
  auto& kind = kinds_[found->second];
  if (kind.lines.size() < kShownLines) kind.lines.push_back(line);
  ++kind.count;
}

std::string RowProblems::told(const Kind& kind) const {
  if (kind.file.empty()) return kind.text;
  const auto found = num_rows_.find(kind.file);
  const auto rows = found == num_rows_.end() ? 0 : found->second;
  auto text = kind.file + ':' + std::to_string(kind.lines.front()) + ": " + kind.text;
  const bool most = rows > 0 && 2 * kind.count > rows;
  if (kind.count > 1) {
    const auto count = std::to_string(kind.count);
    text +=
        most ? " (and so " +
                   (kind.count == rows ? "all " + count : count + " of " + std::to_string(rows)) +
                   " rows)"
             : " (and so " + list_of(kind.lines, kind.count) + ": " + count + " rows)";
  }
  return text + (most && !kind.hint.empty() ? "\n  " + kind.hint : "");
}

void RowProblems::check() const {
  if (empty()) return;
  std::string text;
  for (const auto& kind : kinds_) text += (text.empty() ? "" : "\n") + told(kind);
  if (num_others_ > 0) text += "\n... and " + std::to_string(num_others_) + " more";
  for (const auto& [file, place] : named_at_)
    if (text.find(place) == std::string::npos) text += '\n' + place + ": names " + file;
  throw configs::ConfigError(text);
}

void visit_rows(const DataFile& file, RowProblems& problems,
                const std::function<void(Row&&)>& visit) {
  const auto name = file.path.string();
  const auto place = file.place.empty() ? "" : file.place + ": ";
  try {
    LineReader lines(file.path);
    std::string line;
    std::int64_t rows = 0;
    bool wrong = false;
    while (lines.next(line)) {
      const auto number = lines.line_number();
      if (lines.too_long()) {
        wrong = true;
        problems.add(name, number,
                     "the line is longer than " + std::to_string(kMaxLineBytes >> 20) + " MiB");
        ++rows;
        continue;
      }
      if (trimmed(line).empty()) continue;
      if (const auto kind = rows > 0 ? "" : other_kind(line); !kind.empty()) {
        problems.add(place + name + ": expected JSON lines, one object a line, found " + kind);
        return;
      }
      ++rows;
      bool parsed = false;
      try {
        auto row = parse_row(line, file.format, name, number);
        parsed = true;
        visit(std::move(row));
      } catch (const configs::ConfigError& error) {
        wrong = true;
        const auto hint = [&] { return hint_of(line, file); };
        problems.add(name, number, error.what(),
                     parsed ? std::function<std::string()>() : std::function(hint));
      }
    }
    problems.set_num_rows(name, rows);
    if (wrong && !file.place.empty()) problems.set_place(name, file.place);
    if (rows == 0) problems.add(place + name + ": the file holds no rows");
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
