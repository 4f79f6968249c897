#include "models/text/stop_strings.hpp"

#include <catch2/catch.hpp>
#include <string>
#include <vector>

using tailor::models::text::StopStrings;

namespace {

/// What is shown of `text` when it comes `step` bytes at a time.
std::string shown(const std::string& text, std::size_t step,
                  const std::vector<std::string>& stops) {
  StopStrings filter(stops);
  std::string out;
  for (std::size_t i = 0; i < text.size() && !filter.stopped(); i += step)
    out += filter.push(text.substr(i, step));
  return out + filter.flush();
}

}  // namespace

TEST_CASE("StopStrings: the text ends before the first stop string, however it comes", "[models]") {
  const std::vector<std::string> stops{"###", "\n\nUser:", "ab"};
  for (const std::size_t step : {1U, 2U, 3U, 5U, 100U}) {
    CAPTURE(step);
    CHECK(shown("hello ## world ### no", step, stops) == "hello ## world ");
    CHECK(shown("x\n\nUsed\n\nUser: y", step, stops) == "x\n\nUsed");
    CHECK(shown("aaab", step, stops) == "aa");
    CHECK(shown("ends in ##", step, stops) == "ends in ##");
    CHECK(shown("nothing", step, {}) == "nothing");
    CHECK(shown("ab", step, stops).empty());
  }
}

TEST_CASE("StopStrings: a part of a stop string is never shown early", "[models]") {
  StopStrings filter({"STOP"});
  CHECK(filter.push("go ST") == "go ");
  CHECK(filter.push("O") == "");
  CHECK(filter.push("R") == "STOR");
  CHECK(filter.push("SSTOP more") == "S");
  CHECK(filter.stopped());
  CHECK(filter.push("later") == "");
  CHECK(filter.flush() == "");
}

TEST_CASE("StopStrings: text that cannot begin a stop string is shown at once", "[models]") {
  StopStrings filter({"STOP"});
  CHECK(filter.push("hello") == "hello");
  CHECK_FALSE(filter.stopped());
}
