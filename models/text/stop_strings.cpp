#include "models/text/stop_strings.hpp"

#include <algorithm>
#include <utility>

namespace tailor::models::text {

std::string StopStrings::push(std::string_view text) {
  if (stopped_) return {};
  pending_ += text;
  auto end = pending_.size();
  for (const auto& stop : stops_)
    if (const auto found = pending_.find(stop); found != std::string::npos) {
      end = std::min(end, found);
      stopped_ = true;
    }
  if (!stopped_) {
    // The longest end of the text that begins a stop string stays behind.
    for (const auto& stop : stops_)
      for (auto size = std::min(stop.size() - 1, pending_.size()); size > 0; --size)
        if (pending_.ends_with(std::string_view(stop).substr(0, size))) {
          end = std::min(end, pending_.size() - size);
          break;
        }
  }
  auto shown = pending_.substr(0, end);
  pending_.erase(0, stopped_ ? pending_.size() : end);
  return shown;
}

std::string StopStrings::flush() { return std::exchange(pending_, {}); }

std::string CompletionText::push(std::int64_t id) {
  const auto shown = stops_.push(decoder_.push(id));
  text_ += shown;
  return shown;
}

std::string CompletionText::finish() {
  const auto shown = stops_.push(decoder_.flush()) + stops_.flush();
  text_ += shown;
  return shown;
}

}  // namespace tailor::models::text
