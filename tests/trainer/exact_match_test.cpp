#include "trainer/cli/exact_match.hpp"

#include <catch2/catch.hpp>
#include <string>

#include "configs/reader.hpp"

using tailor::trainer::cli::AnswerRule;

namespace {

std::string answer(const std::string& text, const std::optional<std::string>& pattern = {}) {
  return AnswerRule(pattern).answer(text).value_or("<none>");
}

}  // namespace

TEST_CASE("AnswerRule: the number behind the last mark, else the last number", "[trainer]") {
  CHECK(answer("3 + 4 = 7\n#### 7") == "7");
  CHECK(answer("#### 5 no, #### 6, since 1 + 5 are 6 or 2 times 3") == "6");
  CHECK(answer("Answer: 12 apples, of 30") == "12");
  CHECK(answer("ANSWER: 12. The answer: 13 (of 40)") == "13");
  CHECK(answer("#### 8\nAnswer: 9 of 10") == "9");
  CHECK(answer("She has 12 - 5 = 7 left") == "7");
  CHECK(answer("8 are left. Answer: none") == "8");  // nothing behind the mark
  CHECK(answer("nothing here") == "<none>");
  CHECK(answer("") == "<none>");
  CHECK(answer("####") == "<none>");
}

TEST_CASE("AnswerRule: numbers compare by value", "[trainer]") {
  CHECK(answer("1,234,567") == "1234567");
  CHECK(answer("$1,234.50 in all.") == "1234.5");
  CHECK(answer("18.00") == "18");
  CHECK(answer("007") == "7");
  CHECK(answer("0.50") == "0.5");
  CHECK(answer(".5") == "0.5");
  CHECK(answer("-3") == "-3");
  CHECK(answer("-$3") == "-3");
  CHECK(answer("-0.0") == "0");
  CHECK(answer("7-3") == "3");  // a difference
  CHECK(answer("it is 42.") == "42");
  CHECK(answer("50%") == "50");
  CHECK(answer("1, 2, 3") == "3");
  CHECK(answer("1,2345") == "2345");  // no thousands
  CHECK(answer("99999999999999999999999999") == "99999999999999999999999999");
}

TEST_CASE("AnswerRule: a pattern's last match and first group count", "[trainer]") {
  CHECK(answer("<a>x</a> <a> y </a>", "<a>(.*?)</a>") == "y");
  CHECK(answer("choose B, then C", "[A-D]") == "C");
  CHECK(answer("total: 1,000.0 EUR", "total: ([0-9,.]+)") == "1000");
  CHECK(answer("nothing", "x(y)") == "<none>");
  CHECK(answer(std::string(1 << 20, 'a') + "b7", "a*b([0-9])") == "7");  // no stack of a million
  CHECK_THROWS_AS(AnswerRule("(open"), tailor::configs::ConfigError);
}

TEST_CASE("AnswerRule: completions match references by their answers", "[trainer]") {
  const AnswerRule rule;
  CHECK(rule.matches("I think 5 + 5 = 10.0", "so\n#### 10"));
  CHECK_FALSE(rule.matches("#### 11", "#### 10"));
  CHECK_FALSE(rule.matches("no number", "#### 10"));
  CHECK(rule.matches(" positive\n", "positive"));  // references without a number: the text
  CHECK_FALSE(rule.matches("negative", "positive"));
}
