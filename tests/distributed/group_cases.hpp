#pragma once

#include <functional>
#include <string>
#include <vector>

#include "distributed/group.hpp"

namespace tailor::distributed {

/// What a rank found wrong. Catch2's macros are not thread-safe: ranks note, the main thread
/// asserts.
class Findings {
 public:
  void expect(bool holds, const std::string& what) {
    if (!holds) found_.push_back(what);
  }
  void expect_equal(const at::Tensor& actual, const at::Tensor& expected, const std::string& what);
  template <typename Error>
  void expect_throws(const std::function<void()>& call, const std::string& part_of_the_text) {
    try {
      call();
      found_.push_back("nothing thrown, expected: " + part_of_the_text);
    } catch (const Error& e) {
      expect(std::string(e.what()).find(part_of_the_text) != std::string::npos,
             "expected: " + part_of_the_text + "; thrown: " + e.what());
    }
  }
  const std::vector<std::string>& found() const { return found_; }

 private:
  std::vector<std::string> found_;
};

/// What every backend must do at any number of ranks.
struct GroupCase {
  const char* name;
  void (*run)(Group& group, Findings& findings);
};
const std::vector<GroupCase>& group_cases();

}  // namespace tailor::distributed
