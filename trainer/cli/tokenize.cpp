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

#include "trainer/cli/commands.hpp"
#include "trainer/cli/session.hpp"
#include "trainer/data/dataset.hpp"
#include "trainer/data/line_reader.hpp"
#include "trainer/metrics/terminal.hpp"

namespace tailor::trainer::cli {
namespace {

struct TokenizeOptions {
  std::string model, text, file, format = "messages";
  bool has_text = false;
  bool chat = false, raw = false, null_separated = false, all_tokens = false, json = false;
};

DataFormat format_named(const std::string& name) {
  for (const auto format : {DataFormat::Messages, DataFormat::PromptCompletion, DataFormat::Text})
    if (name == format_name(format)) return format;
  return DataFormat::Tokens;
}

/// Tokens that nothing is trained on.
Example unsupervised(std::vector<std::int64_t> ids) {
  Example example;
  example.labels.assign(ids.size(), kIgnore);
  example.ids = std::move(ids);
  return example;
}

/// Bytes of the UTF-8 sequence at `at`, 0 where there is none or not all of it.
std::size_t sequence_length(const std::string& bytes, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  if (byte(at) < 0x80) return 1;
  if (byte(at) < 0xC2 || byte(at) > 0xF4) return 0;
  const std::size_t length = byte(at) < 0xE0 ? 2 : byte(at) < 0xF0 ? 3 : 4;
  if (at + length > bytes.size()) return 0;
  for (auto i = at + 1; i < at + length; ++i)
    if ((byte(i) & 0xC0U) != 0x80U) return 0;
  return length;
}

std::string escaped(unsigned char byte) {
  if (byte == '\n') return "\\n";
  if (byte == '\t') return "\\t";
  if (byte == '\r') return "\\r";
  std::array<char, 8> text{};
  std::snprintf(text.data(), text.size(), "\\x%02X", byte);
  return text.data();
}

/// A token's bytes in one line of text: what a terminal does not show is escaped.
std::string visible(const std::string& bytes) {
  std::string text;
  for (std::size_t i = 0; i < bytes.size();) {
    const auto byte = static_cast<unsigned char>(bytes[i]);
    const auto length = sequence_length(bytes, i);
    const bool control = byte < ' ' || byte == 0x7F;
    text += length == 0 || control ? escaped(byte) : bytes.substr(i, length);
    i += std::max<std::size_t>(length, 1);
  }
  return text;
}

/// Writes examples to stdout, for people or one JSON object a line.
class Printer {
 public:
  Printer(const models::text::Tokenizer& tokenizer, bool json)
      : tokenizer_(tokenizer), json_(json), colour_(stdout_terminal().colour) {}

  void print(const Example& example, const std::string& title) {
    if (json_)
      print_json(example);
    else
      print_text(example, title);
  }

 private:
  void print_json(const Example& example) {
    line_ = "{\"token_ids\": ";
    append_numbers(example.ids);
    line_ += ", \"tokens\": [";
    for (std::size_t t = 0; t < example.ids.size(); ++t) {
      if (t > 0) line_ += ", ";
      line_ += quoted(example.ids[t]);
    }
    line_ += "], \"labels\": ";
    append_numbers(example.labels);
    line_ += "}\n";
    std::cout.write(line_.data(), static_cast<std::streamsize>(line_.size()));
  }

  void print_text(const Example& example, const std::string& title) {
    std::cout << title << example.ids.size() << (example.ids.size() == 1 ? " token, " : " tokens, ")
              << example.num_supervised() << " supervised\n";
    for (std::size_t t = 0; t < example.ids.size(); ++t) {
      const auto token = visible(tokenizer_.token_bytes(example.ids[t]));
      const bool supervised = example.labels[t] != kIgnore;
      std::cout << (t > 0 ? "|" : "");
      if (supervised)
        std::cout << (colour_ ? "\033[32m" : "[") << token << (colour_ ? "\033[0m" : "]");
      else
        std::cout << token;
    }
    std::cout << "\n\n" << render_supervision(example, tokenizer_, colour_) << "\n\n";
  }

  void append_numbers(const std::vector<std::int64_t>& numbers) {
    line_ += '[';
    for (std::size_t t = 0; t < numbers.size(); ++t) {
      if (t > 0) line_ += ", ";
      line_ += std::to_string(numbers[t]);
    }
    line_ += ']';
  }

  /// The vocabulary's entry as JSON; kept, since a text has few different tokens.
  const std::string& quoted(std::int64_t id) {
    auto& text = quoted_[id];
    if (text.empty())
      text = nlohmann::json(tokenizer_.token_text(id))
                 .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    return text;
  }

  const models::text::Tokenizer& tokenizer_;
  bool json_, colour_;
  std::string line_;
  std::map<std::int64_t, std::string> quoted_;
};

/// A text of the command line or of a file of plain strings.
Example tokenize_text(const std::string& text, const TokenizeOptions& options,
                      const Tokenization& how) {
  if (options.raw) return unsupervised(how.tokenizer->encode(text));
  if (options.chat)
    return unsupervised(how.chat->encode({{"user", text}}, /*add_generation_prompt=*/true).ids);
  Row row;
  row.text = text;
  return tokenize(row, DataFormat::Text, how);
}

void tokenize_strings(const TokenizeOptions& options, const Tokenization& how, Printer& printer) {
  LineReader strings(options.file, '\0');
  for (std::string text; strings.next(text);) {
    const auto title = "string " + std::to_string(strings.line_number()) + ": ";
    if (strings.too_long())
      throw configs::ConfigError(options.file + ": " + title + "longer than " +
                                 std::to_string(kMaxLineBytes >> 20) + " MiB");
    printer.print(tokenize_text(text, options, how), title);
  }
}

void tokenize_rows(const TokenizeOptions& options, const Tokenization& how, Printer& printer) {
  const DataFile file{options.file, format_named(options.format), ""};
  const bool plain = file.format == DataFormat::Text;
  RowProblems problems;
  visit_rows(file, problems, [&](Row&& row) {
    const auto place = options.file + ":" + std::to_string(row.line) + ": ";
    Example example;
    try {
      example = plain ? tokenize_text(row.text, options, how) : tokenize(row, file.format, how);
    } catch (const configs::ConfigError& error) {
      throw configs::ConfigError(place + error.what());
    }
    printer.print(example, place);
  });
  std::cout.flush();
  problems.check();
}

void check(const TokenizeOptions& options) {
  const auto refuse = [](const std::string& why) { throw configs::ConfigError(why); };
  if (options.has_text == !options.file.empty())
    refuse("tokenize: expected either --text or --file");
  if (options.raw && options.chat) refuse("tokenize: --raw and --chat exclude each other");
  if (options.null_separated && options.file.empty()) refuse("tokenize: --null needs --file");
  const bool plain = options.has_text || options.null_separated || options.format == "text";
  if ((options.raw || options.chat) && !plain)
    refuse(std::string("tokenize: ") + (options.raw ? "--raw" : "--chat") +
           " needs --text, --null or --format text, found --format " + options.format);
}

int tokenize_command(const TokenizeOptions& options) {
  check(options);
  const auto pretrained = models::open_pretrained(options.model);
  Tokenization how;
  how.tokenizer = pretrained.tokenizer;
  how.assistant_only_loss = how.completion_only_loss = !options.all_tokens;
  const bool has_messages =
      !options.file.empty() && !options.null_separated && options.format == "messages";
  if (options.chat || has_messages) how.chat = chat_template(pretrained);

  std::ios::sync_with_stdio(false);
  Printer printer(*how.tokenizer, options.json);
  if (options.has_text)
    printer.print(tokenize_text(options.text, options, how), "");
  else if (options.null_separated)
    tokenize_strings(options, how, printer);
  else
    tokenize_rows(options, how, printer);
  std::cout.flush();
  if (!std::cout) throw configs::ConfigError("tokenize: writing to stdout failed");
  return 0;
}

}  // namespace

void add_tokenize(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand(
      "tokenize", "Show what tokenizer and chat template make of a text, with the loss mask");
  auto options = std::make_shared<TokenizeOptions>();
  command->add_option("--model", options->model, "HF directory or GGUF file")->required();
  auto* text = command->add_option("--text", options->text, "a text, as a row of format text");
  command->add_option("--file", options->file, "a data file");
  command->add_option("--format", options->format, "format of the file's rows")
      ->check(CLI::IsMember({"messages", "prompt_completion", "text", "tokens"}))
      ->capture_default_str();
  command->add_flag("--chat", options->chat,
                    "a text is a user's turn, before the assistant's; nothing is supervised");
  command->add_flag("--raw", options->raw,
                    "the tokens of a text alone, no special tokens put around it");
  command->add_flag("-0,--null", options->null_separated,
                    "the file holds plain strings, a zero byte between them");
  command->add_flag("--all-tokens", options->all_tokens,
                    "supervise prompts too (assistant_only_loss, completion_only_loss: false)");
  command->add_flag("--json", options->json, "one JSON object a row");
  command->callback([options, text, &action] {
    options->has_text = text->count() > 0;
    action = [options] { return tokenize_command(*options); };
  });
}

}  // namespace tailor::trainer::cli
