#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/rewards/reward.hpp"

namespace tailor::trainer {

/// How samples travel to what scores them, and scores back; all of it JSON.
///
/// A batch, to Python functions and over HTTP:
///   {"prompts": [...], "completions": [...], "<column>": [...], ...} -> {"rewards": [...]}
/// with TRL's convention: a prompt that is text has a completion that is text, a prompt of messages
/// one of [{"role": "assistant", "content": text}]. A column that some rows lack has nulls there.
///
/// One sample, to commands:
///   {"prompt": ..., "completion": text, "<column>": ..., ...} -> {"reward": 1.0}, 1.0 or null
///
/// Bytes of a completion that are no UTF-8 become U+FFFD.
std::string batch_request(std::span<const Judged> samples, std::span<const std::size_t> chosen);
std::string single_request(const Judged& sample);

/// One sample's answer: a finite score, neither (null: not scored on purpose), or a fault.
struct Answer {
  std::optional<double> value;
  std::string fault;
};

/// The answers of a batch, or one fault for all of it: an error told by the other side, another
/// number of answers, no such object.
struct BatchAnswer {
  std::vector<Answer> answers;
  std::string fault;
};
BatchAnswer read_batch_answer(std::string_view text, std::size_t num_samples);
Answer read_single_answer(std::string_view text);

/// The start of a text for a message, on one line, in printable UTF-8.
std::string excerpt(std::string_view text);

}  // namespace tailor::trainer
