#include "trainer/metrics/memory.hpp"

#include <fstream>
#include <string>
#include <string_view>

namespace tailor::trainer {
namespace {

std::int64_t status_bytes(std::string_view key) {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (word == key) {
      std::int64_t kibibytes = 0;
      return status >> kibibytes ? kibibytes * 1024 : 0;
    }
  return 0;
}

}  // namespace

std::int64_t rss_bytes() { return status_bytes("VmRSS:"); }
std::int64_t peak_rss_bytes() { return status_bytes("VmHWM:"); }

}  // namespace tailor::trainer
