// tailor generate: complete prompts, raw or as chat turns, streaming to the terminal.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "configs/reader.hpp"
#include "models/text/stop_strings.hpp"
#include "trainer/cli/chat_loop.hpp"
#include "trainer/cli/commands.hpp"
#include "trainer/cli/complete.hpp"
#include "trainer/cli/model_options.hpp"
#include "trainer/cli/prompts.hpp"

namespace tailor::trainer::cli {
namespace {

using Clock = std::chrono::steady_clock;

struct GenerateOptions {
  ModelOptions model;
  std::optional<std::string> prompt;
  std::string prompts, system;
  bool chat = false, interactive = false;
  std::int64_t max_new_tokens = 256, batch_size = 8;
  std::int64_t num_return_sequences = 1;  // of each prompt
  models::SamplingConfig sampling;
  std::vector<std::string> stop;
  bool ignore_eos = false, json = false, timing = false;
};

double seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

/// Everything that can be refused before a file is opened.
void check(const GenerateOptions& options) {
  const auto& s = options.sampling;
  if (options.model.model.empty())
    throw configs::ConfigError("--model: expected a HF directory or a GGUF file");
  check(options.model);
  require_option(std::isfinite(s.temperature) && s.temperature >= 0, "--temperature",
                 "0 (greedy) or a positive number", s.temperature);
  require_option(s.top_k >= 0, "--top-k", "0 (off) or a positive number",
                 static_cast<double>(s.top_k));
  require_option(s.top_p > 0 && s.top_p <= 1, "--top-p", "a number above 0, at most 1 (off)",
                 s.top_p);
  require_option(s.min_p >= 0 && s.min_p <= 1, "--min-p", "0 (off) to 1", s.min_p);
  require_option(std::isfinite(s.repetition_penalty) && s.repetition_penalty > 0,
                 "--repetition-penalty", "a positive number", s.repetition_penalty);
  require_option(options.max_new_tokens >= 1, "--max-new-tokens", "a positive number",
                 static_cast<double>(options.max_new_tokens));
  require_option(options.batch_size >= 1 && options.batch_size <= 4096, "--batch-size", "1 to 4096",
                 static_cast<double>(options.batch_size));
  require_option(options.num_return_sequences >= 1 && options.num_return_sequences <= 4096,
                 "--num-return-sequences", "1 to 4096",
                 static_cast<double>(options.num_return_sequences));
  for (const auto& stop : options.stop)
    require_option(!stop.empty(), "--stop", "a string that is not empty", stop);
  if (options.prompt && !options.prompts.empty())
    throw configs::ConfigError("--prompt and --prompts: expected one of the two");
  if (!options.system.empty() && options.prompt && !options.chat)
    throw configs::ConfigError("--system: needs --chat; a plain prompt has no system message");
  if (options.interactive && (options.prompt || !options.prompts.empty() || options.json ||
                              options.num_return_sequences > 1))
    throw configs::ConfigError(
        "--interactive: takes neither --prompt, --prompts, --num-return-sequences nor --json");
  if (options.num_return_sequences > 1 && s.temperature == 0)
    throw configs::ConfigError(
        "--num-return-sequences: needs --temperature above 0; greedy completions are all alike");
}

models::GenerationOptions engine_options(const GenerateOptions& options, const PromptMaker& maker) {
  models::GenerationOptions engine;
  engine.sampling = options.sampling;
  if (!options.ignore_eos) engine.stop_ids = maker.stop_ids();
  engine.batch_size = options.batch_size;
  engine.prompts_apart = true;  // an answer's rounding shall not depend on what else is asked
  return engine;
}

const char* name_of(models::FinishReason reason) {
  return reason == models::FinishReason::Stop ? "stop" : "length";
}

std::string to_json(std::size_t index, const Prompt& prompt, const std::string& text,
                    const models::Completion& completion, const std::string& adapter) {
  nlohmann::ordered_json out;
  out["index"] = index;
  out["prompt"] = prompt.text;
  out["text"] = text;
  out["token_ids"] = completion.ids;
  out["logprobs"] = completion.logprobs;
  out["finish_reason"] = name_of(completion.finish_reason);
  out["adapter"] = adapter.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(adapter);
  return out.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

/// "--- 2 of 7: What is ...": the prompt's beginning, on one line.
std::string heading(std::size_t index, std::size_t count, const std::string& prompt) {
  constexpr std::size_t kWidth = 60;
  auto line = prompt.substr(0, kWidth);
  while (!line.empty() && line.size() < prompt.size() &&
         (static_cast<unsigned char>(prompt[line.size()]) & 0xC0U) == 0x80U)
    line.pop_back();  // no half of a character
  for (auto& c : line)
    if (static_cast<unsigned char>(c) < ' ') c = ' ';
  return "--- " + std::to_string(index + 1) + " of " + std::to_string(count) + ": " + line +
         (line.size() < prompt.size() ? " ..." : "");
}

/// Prints completions in the order of the prompts, those of one prompt one after the other: a
/// single one as it is written, several as soon as those before them are whole.
class Printer {
 public:
  Printer(const GenerateOptions& options, const std::vector<Prompt>& prompts,
          const std::shared_ptr<const models::text::Tokenizer>& tokenizer)
      : options_(options),
        prompts_(prompts),
        completions_(prompts.size() * static_cast<std::size_t>(options.num_return_sequences)),
        streams_(completions_.size() == 1 && !options.json),
        texts_(completions_.size(), models::text::CompletionText(tokenizer, options.stop)) {}

  bool take(std::size_t index, std::int64_t id) {
    if (num_tokens_++ == 0) first_token_ = Clock::now();
    const auto shown = texts_[index].push(id);
    if (streams_) show(shown);
    return !texts_[index].stopped();
  }

  void finish(std::size_t index, const models::Completion& completion) {
    const auto rest = texts_[index].finish();
    if (streams_) show(rest + "\n");
    completions_[index] = completion;
    while (next_ < completions_.size() && completions_[next_]) print(next_++);
  }

  void print_timing(Clock::duration loading, Clock::time_point start) const {
    const auto decoding = seconds(Clock::now() - first_token_);
    const auto later = static_cast<double>(num_tokens_) - static_cast<double>(completions_.size());
    std::fprintf(stderr,
                 "loaded in %.3f s, first token after %.3f s more, %lld new tokens, %.1f a second "
                 "behind the first\n",
                 seconds(loading), seconds(first_token_ - start),
                 static_cast<long long>(num_tokens_), decoding > 0 ? later / decoding : 0.0);
  }

 private:
  static void show(const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }

  void print(std::size_t index) {
    if (streams_) return;
    const auto& text = texts_[index].text();
    const auto& prompt = prompts_[index / static_cast<std::size_t>(options_.num_return_sequences)];
    if (options_.json)
      show(to_json(index, prompt, text, *completions_[index], options_.model.adapter) + "\n");
    else
      show(heading(index, completions_.size(), prompt.text) + "\n" + text + "\n");
  }

  const GenerateOptions& options_;
  const std::vector<Prompt>& prompts_;
  std::vector<std::optional<models::Completion>> completions_;
  bool streams_;
  std::vector<models::text::CompletionText> texts_;
  std::size_t next_ = 0;
  std::int64_t num_tokens_ = 0;
  Clock::time_point first_token_ = Clock::now();
};

std::vector<Prompt> make_prompts(const GenerateOptions& options, PromptMaker& maker) {
  if (!options.prompts.empty()) return maker.from_file(options.prompts);
  if (*options.prompt != "-") return {maker.from_text(*options.prompt)};
  return {maker.from_text({std::istreambuf_iterator<char>(std::cin), {}})};
}

int generate(GenerateOptions options) {
  check(options);
  if (!options.prompt && options.prompts.empty() && !options.interactive) {
    options.interactive = isatty(STDIN_FILENO) != 0 && !options.json;
    if (!options.interactive)
      throw configs::ConfigError(
          "expected --prompt TEXT (- reads it from standard input), --prompts FILE.jsonl or a "
          "terminal to chat in");
  }
  const auto begin = Clock::now();
  set_threads(options.model.threads);
  auto session = open_session(options.model.config(), options.model.adapter);
  PromptMaker maker(session.pretrained, options.chat || options.interactive, options.system);
  if (options.interactive) {
    chat_loop(*session.model, session.pretrained.tokenizer, maker,
              {engine_options(options, maker), options.max_new_tokens, options.stop});
    return 0;
  }
  const auto prompts = make_prompts(options, maker);
  const auto start = Clock::now();
  Printer printer(options, prompts, session.pretrained.tokenizer);
  complete(
      *session.model, prompts, options.num_return_sequences, options.max_new_tokens,
      engine_options(options, maker),
      [&](std::size_t i, const models::Sampled& token) { return printer.take(i, token.id); },
      [&](std::size_t i, const models::Completion& whole) { printer.finish(i, whole); });
  if (options.timing) printer.print_timing(start - begin, start);
  return 0;
}

}  // namespace

void add_generate(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand(
      "generate", "Complete prompts; without a prompt, on a terminal: chat with the model");
  auto options = std::make_shared<GenerateOptions>();
  options->sampling.temperature = 0;
  add_model_options(*command, options->model);
  command->add_option("--prompt", options->prompt, "text to continue; - reads standard input");
  command->add_option("--prompts", options->prompts,
                      "JSONL file: rows of prompt, text, messages or input_ids");
  command->add_flag("--chat", options->chat, "a text is a user turn of the model's chat template");
  command->add_flag("--interactive", options->interactive, "chat, turn by turn");
  command->add_option("--system", options->system, "system message of a conversation");
  command->add_option("--max-new-tokens", options->max_new_tokens, "new tokens at most")
      ->capture_default_str();
  command
      ->add_option("--num-return-sequences", options->num_return_sequences,
                   "completions of each prompt, which is computed once for all of them")
      ->capture_default_str();
  auto& sampling = options->sampling;
  command->add_option("--temperature", sampling.temperature, "0: greedy")->capture_default_str();
  command->add_option("--top-k", sampling.top_k, "keep the k likeliest tokens; 0: off");
  command->add_option("--top-p", sampling.top_p, "keep the likeliest with mass p; 1: off");
  command->add_option("--min-p", sampling.min_p, "keep what has p times the best's; 0: off");
  command->add_option("--repetition-penalty", sampling.repetition_penalty, "1: off");
  command->add_option("--seed", sampling.seed, "of the random numbers")
      ->check(CLI::Range(std::int64_t{0}, std::numeric_limits<std::int64_t>::max()))
      ->capture_default_str();
  command->add_option("--stop", options->stop, "end before this text; repeatable")
      ->allow_extra_args(false);
  command->add_flag("--ignore-eos", options->ignore_eos, "go on behind end tokens");
  command->add_option("--batch-size", options->batch_size, "completions computed together")
      ->capture_default_str();
  command->add_flag("--timing", options->timing, "print times to stderr");
  command->add_flag("--json", options->json, "print one JSON object a completion");
  command->callback([options, &action] { action = [options] { return generate(*options); }; });
}

}  // namespace tailor::trainer::cli
