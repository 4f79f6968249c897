#include "trainer/cli/job_task.hpp"

#include <array>
#include <cstdio>

namespace tailor::trainer::cli {

std::unique_ptr<JobTask> open_task(const RunConfig& config, const models::Pretrained& pretrained,
                                   std::int64_t data_ranks, bool scores) {
  return config.task == "grpo" ? open_grpo_task(config, pretrained, data_ranks, scores)
                               : open_sft_task(config, pretrained, data_ranks);
}

std::string shortened(const std::string& text, std::size_t max_characters) {
  if (text.size() <= max_characters) return text;
  // The end is what the model learns to write: the middle goes.
  auto head = max_characters / 2, tail = text.size() - max_characters / 2;
  const auto inside = [&](std::size_t at) { return (text[at] & 0xC0) == 0x80; };
  while (head > 0 && inside(head)) --head;
  while (tail < text.size() && inside(tail)) ++tail;
  return text.substr(0, head) + " ... " + text.substr(tail);
}

std::string fixed(double value, int digits) {
  std::array<char, 64> out{};
  std::snprintf(out.data(), out.size(), "%.*f", digits, value);
  return out.data();
}

}  // namespace tailor::trainer::cli
