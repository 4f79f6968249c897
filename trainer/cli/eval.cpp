// tailor eval: loss, perplexity and accuracy of a model on a data set, with or without an adapter.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "configs/reader.hpp"
#include "trainer/cli/commands.hpp"
#include "trainer/cli/exact_match.hpp"
#include "trainer/cli/model_options.hpp"
#include "trainer/data/dataset.hpp"
#include "trainer/data/guess_format.hpp"
#include "trainer/sft/evaluate.hpp"
#include "trainer/sft/numeric_error.hpp"

namespace tailor::trainer::cli {
namespace {

using Json = nlohmann::ordered_json;

struct EvalOptions {
  ModelOptions model;
  std::string job, data, format;
  std::vector<std::string> overrides;
  std::optional<std::string> answer_pattern;
  std::int64_t max_length = 0, max_new_tokens = 256, batch_size = 16, show = 0;
  bool exact_match = false, without_adapter = false, without_loss = false, json = false;
};

/// What is evaluated, whether a job file or options say it.
struct Work {
  ModelConfig model;
  std::filesystem::path adapter;  // empty: the base
  std::vector<DataFile> files;
  DataConfig data;
  std::int64_t threads = 0;  // 0: one a core
  std::string threads_place = "--threads";
};

void check(const EvalOptions& options) {
  check(options.model);
  if (options.job.empty() && (options.model.model.empty() || options.data.empty()))
    throw configs::ConfigError("expected a job file, or --model and --data");
  if (options.job.empty() && !options.overrides.empty())
    throw configs::ConfigError("--set: overrides a job file, and none is given");
  if (!options.format.empty() && options.data.empty())
    throw configs::ConfigError("--format: is that of --data, and none is given");
  if (options.without_adapter && !options.model.adapter.empty())
    throw configs::ConfigError("--adapter and --without-adapter: expected one of the two");
  require_option(options.max_length == 0 || options.max_length >= 2, "--max-length",
                 "2 or a larger number", static_cast<double>(options.max_length));
  require_option(options.max_new_tokens >= 1, "--max-new-tokens", "a positive number",
                 static_cast<double>(options.max_new_tokens));
  require_option(options.batch_size >= 1 && options.batch_size <= 4096, "--batch-size", "1 to 4096",
                 static_cast<double>(options.batch_size));
  require_option(options.show >= 0, "--show", "0 or a positive number",
                 static_cast<double>(options.show));
  if (!options.exact_match && (options.answer_pattern || options.show > 0))
    throw configs::ConfigError("--answer-pattern and --show: need --exact-match");
  if (options.without_loss && !options.exact_match)
    throw configs::ConfigError("--without-loss: needs --exact-match, else nothing is left to do");
}

DataFormat format_of(const EvalOptions& options) {
  if (options.format.empty()) return guess_format(options.data, "name it with --format");
  for (const auto format :
       {DataFormat::Messages, DataFormat::PromptCompletion, DataFormat::Text, DataFormat::Tokens})
    if (options.format == format_name(format)) return format;
  throw configs::ConfigError(
      "--format: expected messages, prompt_completion, text or tokens, found \"" + options.format +
      "\"");
}

std::filesystem::path trained_adapter(const RunConfig& config) {
  auto adapter = config.output.dir / "adapter";
  if (!std::filesystem::is_directory(adapter))
    throw configs::ConfigError(adapter.string() +
                               ": the job has not left an adapter there; train first, or give "
                               "--adapter or --without-adapter");
  return adapter;
}

Work work_of(const EvalOptions& options) {
  Work work;
  if (options.job.empty()) {
    work.model = options.model.config();
    work.data.max_length = 0;
  } else {
    const auto config = read_run_config(options.job, options.overrides);
    work.model = config.model;
    work.data = config.data;
    work.files = config.data.eval;
    work.threads = config.train.threads;
    work.threads_place = config.train.threads_place;
    const bool wants_own = options.model.adapter.empty() && !options.without_adapter;
    if (wants_own && config.peft) work.adapter = trained_adapter(config);
    if (!options.model.model.empty()) work.model.name_or_path = options.model.model;
    if (options.model.dtype != "auto") work.model.dtype = options.model.dtype;
    if (options.model.compute_dtype != "auto") {
      work.model.compute_dtype = options.model.compute_dtype;
      work.model.compute_dtype_place = "--compute-dtype";
    }
    if (options.model.device != "auto") {
      work.model.device = options.model.device;
      work.model.device_place = "--device";
    }
  }
  if (!options.model.adapter.empty()) work.adapter = options.model.adapter;
  if (options.model.threads > 0) {
    work.threads = options.model.threads;
    work.threads_place = "--threads";
  }
  if (!options.data.empty()) work.files = {{options.data, format_of(options), "--data"}};
  if (work.files.empty())
    throw configs::ConfigError(options.job + ": data.eval: expected a file, or give --data");
  if (options.max_length > 0) work.data.max_length = options.max_length;
  return work;
}

/// "evaluating 12 of 200" on one line of a terminal, nothing elsewhere.
std::function<void(std::int64_t, std::int64_t)> progress(const char* what) {
  if (isatty(STDERR_FILENO) == 0) return {};
  return [what](std::int64_t done, std::int64_t all) {
    std::fprintf(stderr, "\r%s %lld of %lld%s", what, static_cast<long long>(done),
                 static_cast<long long>(all), done == all ? "\n" : "");
  };
}

struct ExactMatch {
  std::vector<Question> questions;
  std::vector<Answered> answered;

  std::int64_t num_correct() const {
    return std::ranges::count_if(answered, [](const Answered& one) { return one.is_correct; });
  }
  double accuracy() const {
    return static_cast<double>(num_correct()) / static_cast<double>(answered.size());
  }
};

/// `maker` has read the questions already, so that a wrong row is told before the long part.
ExactMatch run_exact_match(const Session& session, const PromptMaker& maker,
                           std::vector<Question> asked, const EvalOptions& options,
                           const AnswerRule& rule) {
  models::GenerationOptions engine;
  engine.sampling.temperature = 0;
  engine.stop_ids = maker.stop_ids();
  engine.batch_size = options.batch_size;
  engine.prompts_apart = true;  // the accuracy shall not depend on the batch
  const auto tell = progress("answering");
  const auto all = static_cast<std::int64_t>(asked.size());
  auto answered = answer_questions(*session.model, session.pretrained.tokenizer, asked, engine,
                                   options.max_new_tokens, rule, [&](std::size_t done) {
                                     if (tell) tell(static_cast<std::int64_t>(done), all);
                                   });
  return {std::move(asked), std::move(answered)};
}

Json to_json(const std::optional<LossSums>& sums, const std::optional<ExactMatch>& match,
             const std::filesystem::path& adapter) {
  Json out;
  out["loss"] = sums ? Json(mean_loss(*sums)) : Json();
  out["perplexity"] = sums ? Json(perplexity(*sums)) : Json();
  out["token_accuracy"] = sums ? Json(token_accuracy(*sums)) : Json();
  out["num_tokens"] = sums ? Json(sums->num_tokens) : Json();
  if (match) {
    out["exact_match"] = match->accuracy();
    out["num_rows"] = match->answered.size();
  }
  out["adapter"] = adapter.empty() ? Json() : Json(adapter.string());
  return out;
}

void print_samples(const ExactMatch& match, std::int64_t count, std::FILE* out) {
  const auto shown = std::min(static_cast<std::size_t>(count), match.answered.size());
  for (std::size_t i = 0; i < shown; ++i) {
    const auto& [prompt, reference] = match.questions[i];
    std::fprintf(out, "--- %zu of %zu: %s\n%s\n[the model]\n%s\n[expected]\n%s\n", i + 1,
                 match.answered.size(), match.answered[i].is_correct ? "right" : "wrong",
                 prompt.text.c_str(), match.answered[i].completion.c_str(), reference.c_str());
  }
}

void print(const std::optional<LossSums>& sums, const std::optional<ExactMatch>& match,
           const Work& work, const Dataset& dataset, const EvalOptions& options) {
  if (match) print_samples(*match, options.show, stdout);
  std::printf("model           %s\n", work.model.name_or_path.c_str());
  std::printf("adapter         %s\n", work.adapter.empty() ? "none" : work.adapter.c_str());
  std::printf("data            %s\n", describe(dataset).c_str());
  if (sums) {
    std::printf("loss            %.6f\n", mean_loss(*sums));
    std::printf("perplexity      %.4f\n", perplexity(*sums));
    std::printf("token accuracy  %.4f\n", token_accuracy(*sums));
  }
  if (match)
    std::printf("exact match     %.4f (%lld of %zu rows)\n", match->accuracy(),
                static_cast<long long>(match->num_correct()), match->answered.size());
}

int eval(const EvalOptions& options) {
  check(options);
  auto work = work_of(options);
  std::optional<AnswerRule> rule;
  if (options.exact_match) rule.emplace(options.answer_pattern);
  choose_precision(work.model);
  set_threads(work.threads, work.threads_place);

  const auto pretrained = models::open_pretrained(work.model.name_or_path);
  if (work.data.max_length == 0)
    work.data.max_length = models::make_causal_lm(pretrained.config_json, pretrained.config_file)
                               ->shape()
                               .max_position_embeddings;
  const auto dataset =
      load_dataset(work.files, work.data, tokenization(pretrained, work.files, work.data));
  PromptMaker maker(pretrained, /*as_chat=*/false, /*system=*/"");
  std::vector<Question> asked;
  if (options.exact_match)
    for (const auto& file : work.files)
      std::ranges::move(questions(file, maker), std::back_inserter(asked));

  const auto session = open_session(work.model, work.adapter);
  std::optional<LossSums> sums;
  if (!options.without_loss) sums = evaluate(*session.model, dataset, progress("evaluating"));
  if (sums && !std::isfinite(mean_loss(*sums)))
    throw NumericError("the loss is not finite: numbers that are not lie in " +
                       work.model.name_or_path.string() +
                       (work.adapter.empty() ? "" : " or in the adapter " + work.adapter.string()));
  std::optional<ExactMatch> match;
  if (rule) match = run_exact_match(session, maker, std::move(asked), options, *rule);
  if (options.json) {
    if (match) print_samples(*match, options.show, stderr);
    std::cout << to_json(sums, match, work.adapter).dump() << '\n';
  } else {
    print(sums, match, work, dataset, options);
  }
  return 0;
}

}  // namespace

void add_eval(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand(
      "eval", "Loss, perplexity and accuracy of a job's model and adapter, or of --model, on data");
  auto options = std::make_shared<EvalOptions>();
  command->add_option("job", options->job, "job file (YAML): its model, adapter and data.eval");
  command->add_option("--set", options->overrides, "override one value: --set data.max_length=512")
      ->allow_extra_args(false);
  add_model_options(*command, options->model);
  command->add_flag("--without-adapter", options->without_adapter, "the base alone");
  command->add_option("--data", options->data, "JSONL file");
  command->add_option("--format", options->format,
                      "messages, prompt_completion, text or tokens; else the first row tells");
  command->add_option("--max-length", options->max_length,
                      "tokens of a row; else the job's, or the model's positions");
  command->add_flag("--exact-match", options->exact_match,
                    "answer every row greedily and compare the final answers");
  command->add_flag("--without-loss", options->without_loss,
                    "the answers of --exact-match alone, without the pass for the loss");
  command->add_option("--answer-pattern", options->answer_pattern,
                      "regular expression of an answer, its first group where it has one; else the "
                      "number behind #### or Answer:, or the last number");
  command->add_option("--max-new-tokens", options->max_new_tokens, "tokens of an answer at most")
      ->capture_default_str();
  command->add_option("--batch-size", options->batch_size, "answers written together")
      ->capture_default_str();
  command->add_option("--show", options->show, "print so many answers");
  command->add_flag("--json", options->json, "print the result as JSON");
  command->callback([options, &action] { action = [options] { return eval(*options); }; });
}

}  // namespace tailor::trainer::cli
