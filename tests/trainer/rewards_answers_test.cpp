#include <catch2/catch.hpp>
#include <string>
#include <utility>
#include <vector>

#include "trainer/rewards/answer_text.hpp"

using namespace tailor::trainer;

namespace {

/// Stands for "no number".
constexpr double kNone = -12345.678;

double number_in(const std::string& text) {
  const auto number = answer_number(text);
  return number ? number->value : kNone;
}

std::string marked_in(const std::string& text) {
  const auto marked = marked_answer(text);
  return marked ? std::string(marked->content) : "(none)";
}

}  // namespace

TEST_CASE("the number that a text answers", "[rewards]") {
  const auto [text, expected] = GENERATE(table<std::string, double>({
      // Prose: the last number.
      {"The answer is 42.", 42},
      {"3 boxes of 4 make 12", 12},
      {"first 1, then 2, then 3", 3},
      {"nothing here", kNone},
      {"", kNone},
      {"It is -7", -7},
      {"It is \xE2\x88\x92"
       "7",
       -7},
      {"10-5", 5},
      {"the range 3-4", 4},
      {"= -5", -5},
      {"+8", 8},
      {"- 5 apples", 5},
      {"**42**", 42},
      {"_42_", 42},
      {"0.5", 0.5},
      {"-.25", -0.25},
      {"5.", 5},
      {"1e3", 1000},
      {"2.5E-2", 0.025},
      {"version 1.2.3", kNone},
      {"3.14.", 3.14},
      {"1" + std::string(400, '0'), kNone},
      // Thousands.
      {"1,234", 1234},
      {"1,234,567.89", 1234567.89},
      {"1,2", 2},
      {"12,34", 34},
      {"1,2345", 2345},
      {"10\\,000", 10000},
      {"1{,}234", 1234},
      {"10,\\!000", 10000},
      {"1\xE2\x80\xAF"
       "234",
       1234},
      // Money, percent, units.
      {"$1,234.50.", 1234.5},
      {"-$5", -5},
      {"$-5", -5},
      {"\\$18", 18},
      {"\xE2\x82\xAC"
       "20",
       20},
      {"20%", 20},
      {"20\\%", 20},
      {"5 kg", 5},
      {"5 m^2", 5},
      {"9.8 m/s^2", 9.8},
      {"3 \\text{ cm}^{2}", 3},
      {"90^\\circ", 90},
      {"4 s^{-1}", 4},
      // Names and subscripts are no numbers.
      {"H2O", kNone},
      {"x_1 and x_{2}", kNone},
      {"7 of x_1", 7},
      // Fractions and powers.
      {"3/4", 0.75},
      {"3 / 4", 0.75},
      {"-1/2", -0.5},
      {"\\frac{3}{4}", 0.75},
      {"\\dfrac{-1}{2}", -0.5},
      {"-\\frac{1}{2}", -0.5},
      {"\\frac12", 0.5},
      {"\\frac{\\frac{1}{2}}{2}", 0.25},
      {"1 3/4", 1.75},
      {"1\\frac{3}{4}", 1.75},
      {"on 10/12/2024", 2024},
      {"7/0", kNone},
      {"\\frac{1}{0}", kNone},
      {"\\frac{a}{b}", kNone},
      {"2^10", 1024},
      {"2^{10}", 1024},
      {"2.5 \\times 10^{3}", 2500},
      {"6 \xC3\x97 10^2", 600},
      {"3\\sqrt{2}", kNone},
      {"2\\pi", kNone},
      // Marks.
      {"12 + 30 = 42\n#### 42", 42},
      {"#### 1,000 dollars in 3 days", 1000},
      {"#### $72", 72},
      {"so \\boxed{7}, as 3 shows", 7},
      {"\\boxed{x = 5}", 5},
      {"\\boxed{5 \\text{ of } 12}", 5},
      {"\\boxed{\\frac{3}{4}}", 0.75},
      {"\\boxed{nothing} but 3", kNone},
      {"\\boxed{1} no, \\boxed{2}", 2},
      {"\\boxed{1} then \\boxed{2", 1},
      {"<answer>11</answer> 12", 11},
      {"<answer> \\boxed{11} </answer>", 11},
      {"<answer>11", 11},
      {"#### Step 3: add\nso 9", 9},
      {"##### 3\n4", 4},
  }));
  CAPTURE(text);
  CHECK(number_in(text) == Approx(expected).epsilon(1e-12));
}

TEST_CASE("a percentage equals its number and its share", "[rewards]") {
  const auto equal = [](const std::string& a, const std::string& b, double tolerance = 1e-6) {
    return equal_numbers(*answer_number(a), *answer_number(b), tolerance);
  };
  CHECK(equal("20%", "20"));
  CHECK(equal("20%", "0.2"));
  CHECK(equal("0.2", "20%"));
  CHECK(equal("20%", "20 %"));
  CHECK_FALSE(equal("20", "0.2"));
  CHECK_FALSE(equal("20%", "2"));
  CHECK(equal("1/3", "0.33333333"));
  CHECK_FALSE(equal("1/3", "0.333"));
  CHECK(equal("1/3", "0.333", 1e-3));
  CHECK(equal("1000001", "1000000", 1e-5));
  CHECK_FALSE(equal("11", "10", 0.05));
  CHECK(equal("0.0000005", "0"));
}

TEST_CASE("marked answers", "[rewards]") {
  CHECK(marked_in("plain") == "(none)");
  CHECK(marked_in("\\boxed{a{b}c}") == "a{b}c");
  CHECK(marked_in("\\boxed{\\{1\\}}") == "\\{1\\}");
  CHECK(marked_in("\\fbox{ x }") == "x");
  CHECK(marked_in("x\n#### Paris \nmore") == "Paris");
  CHECK(marked_in("<answer>a</answer> <answer>b</answer>") == "b");
  CHECK(marked_in("a #### b <answer>c</answer>") == "c");
  CHECK(marked_in("<answer>c</answer>\n#### b") == "b");
  CHECK(marked_in("<answer></answer>") == "");
  CHECK(marked_in("</answer><answer>") == "(none)");
  CHECK(marked_in("####") == "");
}

TEST_CASE("texts are compared without their dress", "[rewards]") {
  const auto plain = [](const std::string& text) { return normalised(text, {}); };
  CHECK(plain("  The\n Quick\tfox. ") == "the quick fox");
  CHECK(plain("\"Paris\"!") == "paris");
  CHECK(plain("**-5**") == "-5");
  CHECK(plain("(.5)") == ".5");
  CHECK(plain("...") == "...");
  CHECK(plain("") == "");
  CHECK(normalised("A. ", {.ignore_case = false, .ignore_punctuation = false}) == "A.");
}

TEST_CASE("hostile texts take linear time", "[rewards]") {
  for (const std::string& piece :
       {std::string("\\boxed{"), std::string("\\frac{"), std::string("1,234"), std::string("####"),
        std::string("<answer>"), std::string("{"), std::string("1/"), std::string("9"),
        std::string("1 "), std::string("\\sqrt{"), std::string("1.1.")}) {
    std::string text;
    while (text.size() < 400'000) text += piece;
    answer_number(text);  // ctest's time limit is the check
    normalised(text, {});
  }
  SUCCEED();
}
