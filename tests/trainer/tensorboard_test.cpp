#include "trainer/metrics/tensorboard.hpp"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "configs/reader.hpp"

using namespace tailor::trainer;

namespace {

class TemporaryFolder {
 public:
  TemporaryFolder()
      : path_(std::filesystem::temp_directory_path() /
              ("tailor-events-" + std::to_string(getpid()))) {
    std::filesystem::remove_all(path_);
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& get() const { return path_; }

 private:
  std::filesystem::path path_;
};

std::string content_of(const std::filesystem::path& path) {
  std::ostringstream all;
  all << std::ifstream(path, std::ios::binary).rdbuf();
  return all.str();
}

/// A decoder of its own, by the formats' public descriptions: every read is checked.
class Reader {
 public:
  explicit Reader(std::string bytes) : bytes_(std::move(bytes)) {}
  bool done() const { return at_ == bytes_.size(); }
  std::string take(std::size_t n) {
    REQUIRE(bytes_.size() - at_ >= n);
    at_ += n;
    return bytes_.substr(at_ - n, n);
  }
  template <typename T>
  T fixed() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0;; shift += 7) {
      REQUIRE(shift < 64);
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= std::uint64_t{byte & 0x7FU} << shift;
      if (byte < 0x80) return value;
    }
  }

 private:
  std::string bytes_;
  std::size_t at_ = 0;
};

/// The bitwise definition, with the mask of the TFRecord format.
std::uint32_t masked(const std::string& bytes) {
  std::uint32_t crc = ~0U;
  for (const char c : bytes) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1U ? crc >> 1 ^ 0x82F63B78U : crc >> 1;
  }
  crc = ~crc;
  return ((crc >> 15) | (crc << 17)) + 0xA282EAD8U;
}

std::vector<std::string> records(const std::filesystem::path& path) {
  std::vector<std::string> all;
  for (Reader file(content_of(path)); !file.done();) {
    const auto length = file.take(8);
    REQUIRE(file.fixed<std::uint32_t>() == masked(length));
    const auto record = file.take(Reader(length).fixed<std::uint64_t>());
    REQUIRE(file.fixed<std::uint32_t>() == masked(record));
    all.push_back(record);
  }
  return all;
}

struct Event {
  double wall_time = 0.0;
  std::int64_t step = -1;
  std::string file_version;
  std::uint64_t session_status = 0;
  std::map<std::string, float> values;
};

void read_summary(Reader summary, Event& event) {
  while (!summary.done()) {
    REQUIRE(summary.varint() == (1U << 3 | 2U));
    Reader value(summary.take(summary.varint()));
    REQUIRE(value.varint() == (1U << 3 | 2U));
    const auto tag = value.take(value.varint());
    REQUIRE(value.varint() == (2U << 3 | 5U));
    event.values[tag] = value.fixed<float>();
    REQUIRE(value.done());
  }
}

Event decoded(const std::string& record) {
  Event event;
  for (Reader reader(record); !reader.done();) {
    switch (reader.varint()) {
      case 1U << 3 | 1U:
        event.wall_time = reader.fixed<double>();
        break;
      case 2U << 3 | 0U:
        event.step = static_cast<std::int64_t>(reader.varint());
        break;
      case 3U << 3 | 2U:
        event.file_version = reader.take(reader.varint());
        break;
      case 5U << 3 | 2U:
        read_summary(Reader(reader.take(reader.varint())), event);
        break;
      case 7U << 3 | 2U: {
        Reader session(reader.take(reader.varint()));
        REQUIRE(session.varint() == (1U << 3 | 0U));
        event.session_status = session.varint();
        break;
      }
      default:
        FAIL("an unknown field");
    }
  }
  return event;
}

}  // namespace

TEST_CASE("crc32c gives the published values", "[metrics]") {
  CHECK(crc32c("123456789") == 0xE3069283U);            // the check value of the catalogue of CRCs
  CHECK(crc32c(std::string(32, '\0')) == 0x8A9136AAU);  // RFC 3720, B.4
  CHECK(crc32c(std::string(32, '\xFF')) == 0x62A8AB43U);
  std::string ascending;
  for (char c = 0; c < 32; ++c) ascending += c;
  CHECK(crc32c(ascending) == 0x46DD794EU);
  CHECK(crc32c("") == 0U);
}

TEST_CASE("an event file holds version, session start and the steps", "[metrics]") {
  const TemporaryFolder folder;
  TensorboardLog log(folder.get(), 0);
  log.write(fields(StepMetrics{.step = 300,
                               .loss = 0.25,
                               .mean_token_accuracy = 0.5,
                               .num_tokens = 5'000'000'000,
                               .more = {{"histogram", Histogram{{0.0, 1.0}, {2}}}}}));
  log.write(fields(EvalMetrics{.step = 300, .eval_loss = 1.5}));
  const auto all = records(log.path());
  REQUIRE(all.size() == 4);
  CHECK(decoded(all[0]).file_version == "brain.Event:2");
  CHECK(decoded(all[0]).wall_time > 1.6e9);
  CHECK(decoded(all[1]).session_status == 1);
  CHECK(decoded(all[1]).step == 0);
  const auto step = decoded(all[2]);
  CHECK(step.step == 300);
  CHECK(step.values.size() == 10);
  CHECK(step.values.at("train/loss") == 0.25F);
  CHECK(step.values.at("train/num_tokens") == 5e9F);
  CHECK(decoded(all[3]).values.at("eval/loss") == 1.5F);
}

TEST_CASE("a resumed run adds a file that comes later and supersedes later steps", "[metrics]") {
  const TemporaryFolder folder;
  std::vector<std::filesystem::path> paths;
  for (const std::int64_t resumed : {0, 50, 100}) {
    const TensorboardLog log(folder.get(), resumed);
    paths.push_back(log.path());
    const auto all = records(log.path());
    REQUIRE(all.size() == 2);
    CHECK(decoded(all[1]).session_status == 1);
    CHECK(decoded(all[1]).step == (resumed == 0 ? 0 : resumed + 1));
  }
  CHECK(paths[0].filename() < paths[1].filename());
  CHECK(paths[1].filename() < paths[2].filename());
}

TEST_CASE("a folder that cannot be made is named with the reason", "[metrics]") {
  CHECK_THROWS_WITH(
      TensorboardLog("/proc/nowhere/tensorboard", 0),
      Catch::StartsWith("/proc/nowhere/tensorboard: cannot write TensorBoard events: "));
}
