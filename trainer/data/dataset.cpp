#include "trainer/data/dataset.hpp"

#include <algorithm>
#include <optional>
#include <utility>

namespace tailor::trainer {
namespace {

constexpr std::size_t kSampleTokens = 200;  // of the sample in an error

/// What would fail for every row alike is said once, before any is read.
void check_tokenization(const DataFile& file, const Tokenization& how) {
  const auto place = file.place.empty() ? file.path.string() : file.place;
  const bool ends_text =
      file.format == DataFormat::PromptCompletion || file.format == DataFormat::Text;
  if (ends_text && !how.tokenizer->spec().eos_id)
    throw configs::ConfigError(place + ": format " + format_name(file.format) +
                               " needs a tokenizer with an end-of-text token (eos_token)");
  if (file.format == DataFormat::Messages && !how.chat)
    throw configs::ConfigError(place + ": format messages needs a model with a chat template");
}

class Loader {
 public:
  Loader(const DataConfig& config, const Tokenization& how) : config_(config), how_(how) {}

  void add_file(const DataFile& file) {
    check_tokenization(file, how_);
    visit_rows(file, problems_, [&](Row&& row) {
      const auto line = row.line;
      add(tokenize(row, file.format, how_), file.path, line);
    });
  }

  Dataset take() {
    problems_.check();
    if (dataset_.examples.empty()) throw configs::ConfigError(nothing_left());
    return std::move(dataset_);
  }

 private:
  void add(Example example, const std::filesystem::path& file, std::int64_t line) {
    ++num_rows_;
    if (!sample_) {
      sample_ = beginning(example, kSampleTokens);
      sample_place_ = file.string() + ':' + std::to_string(line);
    }
    check_vocabulary(example);
    const auto max_length = static_cast<std::size_t>(config_.max_length);
    if (example.ids.size() > max_length) {
      if (config_.over_length == OverLength::Raise)
        throw configs::ConfigError("the row has " + std::to_string(example.ids.size()) +
                                   " tokens, more than max_length " + std::to_string(max_length));
      if (config_.over_length == OverLength::Drop) {
        ++dataset_.num_dropped;
        return;
      }
      ++dataset_.num_truncated;
      example = beginning(example, max_length);
    }
    const auto supervised = example.num_supervised();
    if (supervised == 0) {
      ++dataset_.num_unsupervised;
      return;
    }
    dataset_.num_tokens += static_cast<std::int64_t>(example.ids.size());
    dataset_.num_supervised += supervised;
    dataset_.examples.push_back(std::move(example));
  }

  static Example beginning(const Example& example, std::size_t length) {
    const auto end = static_cast<std::ptrdiff_t>(std::min(length, example.ids.size()));
    return {{example.ids.begin(), example.ids.begin() + end},
            {example.labels.begin(), example.labels.begin() + end}};
  }

  void check_vocabulary(const Example& example) const {
    if (how_.vocab_size == 0 || example.ids.empty()) return;
    const auto largest = *std::max_element(example.ids.begin(), example.ids.end());
    if (largest >= how_.vocab_size)
      throw configs::ConfigError("the row has token id " + std::to_string(largest) + " (\"" +
                                 how_.tokenizer->token_text(largest) +
                                 "\"), expected ids below the model's vocab_size " +
                                 std::to_string(how_.vocab_size));
  }

  std::string nothing_left() const {
    auto text = "no row is left to learn from or to evaluate: of " + std::to_string(num_rows_) +
                " rows " + std::to_string(dataset_.num_dropped) + " are longer than max_length " +
                std::to_string(config_.max_length) + " and " +
                std::to_string(dataset_.num_unsupervised) + " have no supervised token";
    if (dataset_.num_truncated > 0)
      text += " (" + std::to_string(dataset_.num_truncated) +
              " were cut at max_length, perhaps before the part that is trained on)";
    if (sample_)
      text += '\n' + sample_place_ +
              ": the first row begins, supervised parts between [[ and ]]:\n" +
              render_supervision(*sample_, *how_.tokenizer);
    return text;
  }

  const DataConfig& config_;
  const Tokenization& how_;
  Dataset dataset_;
  RowProblems problems_;
  std::optional<Example> sample_;
  std::string sample_place_;  // "train.jsonl:1"
  std::int64_t num_rows_ = 0;
};

std::string grouped(std::int64_t number) {
  auto digits = std::to_string(number);
  for (auto at = static_cast<std::ptrdiff_t>(digits.size()) - 3; at > 0; at -= 3)
    digits.insert(static_cast<std::size_t>(at), 1, ',');
  return digits;
}

}  // namespace

Dataset load_dataset(const std::vector<DataFile>& files, const DataConfig& config,
                     const Tokenization& how) {
  Loader loader(config, how);
  for (const auto& file : files) loader.add_file(file);
  return loader.take();
}

std::string describe(const Dataset& dataset) {
  auto text = grouped(static_cast<std::int64_t>(dataset.examples.size())) + " rows, " +
              grouped(dataset.num_tokens) + " tokens, " + grouped(dataset.num_supervised) +
              " of them supervised";
  if (dataset.num_truncated > 0)
    text += "; " + grouped(dataset.num_truncated) + " rows cut at max_length";
  if (dataset.num_dropped > 0)
    text += "; " + grouped(dataset.num_dropped) + " rows longer than max_length left out";
  if (dataset.num_unsupervised > 0)
    text += "; " + grouped(dataset.num_unsupervised) + " rows without a supervised token left out";
  return text;
}

}  // namespace tailor::trainer
