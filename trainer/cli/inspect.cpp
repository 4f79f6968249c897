// tailor inspect: what a model file, an adapter or a run holds, from headers alone.
#include "models/files/inspect.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/files/file_error.hpp"
#include "trainer/cli/commands.hpp"
#include "trainer/metrics/terminal.hpp"

namespace tailor::trainer::cli {
namespace {

using Json = nlohmann::ordered_json;

struct InspectOptions {
  std::string path;
  bool all = false, json = false;
};

std::string grouped(std::int64_t number) {  // 134,515,008
  std::string digits = std::to_string(number);
  for (auto at = static_cast<std::ptrdiff_t>(digits.size()) - 3; at > 0; at -= 3) {
    digits.insert(static_cast<std::size_t>(at), ",");
  }
  return digits;
}

std::string size_text(std::int64_t bytes) {
  constexpr std::array kUnits = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  auto size = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; size >= 1024 && unit + 1 < kUnits.size(); ++unit) size /= 1024;
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), unit == 0 ? "%.0f %s" : "%.1f %s", size, kUnits[unit]);
  return text.data();
}

std::int64_t num_values(const models::TensorEntry& tensor) {
  std::int64_t values = 1;
  for (const std::int64_t size : tensor.shape) values *= size;
  return values;
}

/// A name for a cell of one line.
std::string cell(const std::string& name) { return printable(name, /*kept=*/""); }

/// Columns as wide as their longest cell; those in `right` are aligned to the right.
class Table {
 public:
  Table(std::vector<std::string> head, std::vector<bool> right)
      : rows_{std::move(head)}, right_(std::move(right)) {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }

  void print() const {
    std::vector<std::size_t> widths(right_.size());
    for (const auto& row : rows_) {
      for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
    }
    for (const auto& row : rows_) {
      std::string line;
      for (std::size_t i = 0; i < row.size(); ++i) {
        const std::string space(widths[i] - row[i].size(), ' ');
        line += "  " + (right_[i] ? space + row[i] : row[i] + space);
      }
      line.erase(line.find_last_not_of(' ') + 1);
      std::cout << line << '\n';
    }
  }

 private:
  std::vector<std::vector<std::string>> rows_;
  std::vector<bool> right_;
};

/// "model.layers.7.mlp" -> "model.layers.*.mlp": tensors that differ in the layer alone are a row.
std::string without_numbers(const std::string& name) {
  std::string pattern;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    const std::string part = name.substr(begin, end - begin);
    const bool number = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
    pattern += (begin == 0 ? "" : ".") + (number ? "*" : part);
    begin = end + 1;
  }
  return pattern;
}

void print_tensors(const models::Inspection& seen, bool all) {
  struct Row {
    std::string name, dtype, shape;
    std::int64_t count = 0, bytes = 0;
  };
  std::vector<Row> rows;
  std::map<std::string, std::size_t> places;
  for (const models::TensorEntry& tensor : seen.tensors) {
    const std::string name = cell(all ? tensor.name : without_numbers(tensor.name));
    const std::string shape = models::shape_text(tensor.shape);
    const auto [place, is_new] =
        places.try_emplace(name + '\0' + tensor.dtype + '\0' + shape, rows.size());
    if (is_new) rows.push_back({name, tensor.dtype, shape});
    rows[place->second].count += 1;
    rows[place->second].bytes += tensor.num_bytes;
  }
  Table table({"tensor", "count", "dtype", "shape", "bytes"}, {false, true, false, false, true});
  for (const Row& row : rows) {
    table.add({row.name, std::to_string(row.count), row.dtype, row.shape, grouped(row.bytes)});
  }
  table.print();
}

void print_dtypes(const models::Inspection& seen) {
  struct Sum {
    std::int64_t tensors = 0, values = 0, bytes = 0;
  };
  std::map<std::string, Sum> sums;
  for (const models::TensorEntry& tensor : seen.tensors) {
    Sum& sum = sums[tensor.dtype];
    sum.tensors += 1;
    sum.values += num_values(tensor);
    sum.bytes += tensor.num_bytes;
  }
  Table table({"dtype", "tensors", "parameters", "bytes"}, {false, true, true, true});
  for (const auto& [dtype, sum] : sums) {
    table.add({dtype, grouped(sum.tensors), grouped(sum.values), grouped(sum.bytes)});
  }
  table.print();
}

/// One line a key; objects within are opened, so that a config.json reads as one.
void add_metadata(const Json& json, const std::string& prefix, bool all, Table& table) {
  constexpr std::size_t kMaxShown = 100;
  for (const auto& [key, value] : json.items()) {
    const std::string name = prefix + key;
    if (value.is_object() && !value.empty() && !value.contains("length")) {
      add_metadata(value, name + (name.ends_with(".json") ? ": " : "."), all, table);
      continue;
    }
    std::string text = value.is_string()
                           ? value.get<std::string>()
                           : value.dump(-1, ' ', false, Json::error_handler_t::replace);
    text = cell(text);
    if (!all && text.size() > kMaxShown) {
      std::size_t cut = kMaxShown;
      while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xc0) == 0x80) --cut;  // UTF-8
      text = text.substr(0, cut) + "...";
    }
    table.add({cell(name), text});
  }
}

void print_for_people(const models::Inspection& seen, const InspectOptions& options) {
  std::cout << options.path << ": " << seen.kind << ", " << grouped(std::ssize(seen.tensors))
            << " tensors, " << grouped(seen.num_parameters) << " parameters, "
            << size_text(seen.num_bytes) << '\n';
  const Json metadata = Json::parse(seen.metadata_json);
  if (!metadata.empty()) {
    std::cout << '\n';
    Table table({"metadata", ""}, {false, false});
    add_metadata(metadata, "", options.all, table);
    table.print();
  }
  if (seen.tensors.empty()) return;
  std::cout << '\n';
  print_tensors(seen, options.all);
  std::cout << '\n';
  print_dtypes(seen);
}

void print_json(const models::Inspection& seen) {
  Json tensors = Json::array();
  for (const models::TensorEntry& tensor : seen.tensors) {
    tensors.push_back({{"name", tensor.name}, {"dtype", tensor.dtype}, {"shape", tensor.shape}});
  }
  const Json result = {{"kind", seen.kind},
                       {"num_tensors", seen.tensors.size()},
                       {"num_parameters", seen.num_parameters},
                       {"num_bytes", seen.num_bytes},
                       {"metadata", Json::parse(seen.metadata_json)},
                       {"tensors", std::move(tensors)}};
  // A GGUF name may be any bytes; a program gets valid JSON all the same.
  std::cout << result.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
}

int inspect_command(const InspectOptions& options) {
  const models::Inspection seen = models::inspect(options.path);
  if (options.json) {
    print_json(seen);
  } else {
    print_for_people(seen, options);
  }
  return 0;
}

}  // namespace

void add_inspect(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand(
      "inspect", "Show what a model file, a HF directory, an adapter or a run directory holds");
  auto options = std::make_shared<InspectOptions>();
  command->add_option("path", options->path, "safetensors or GGUF file, or a directory")
      ->required();
  command->add_flag("--all", options->all, "every tensor on a line of its own, metadata uncut");
  command->add_flag("--json", options->json, "one JSON object");
  command->callback(
      [options, &action] { action = [options] { return inspect_command(*options); }; });
}

}  // namespace tailor::trainer::cli
