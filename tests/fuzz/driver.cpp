// A small mutation driver for builds without libFuzzer: every seed file as it is, then random
// mutations of the seeds for a given time. The input about to run lies in PROGRAM.input, so that a
// crash, a hang or a huge allocation leaves the input that caused it; a normal end removes the
// file. To run one input again: PROGRAM --seconds 0 PROGRAM.input
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Bytes = std::vector<std::uint8_t>;
using Clock = std::chrono::steady_clock;

constexpr unsigned kHangSeconds = 20;                 // for one input
constexpr std::size_t kMaxBytes = 1 << 20;            // of one input
constexpr rlim_t kMaxAddressSpace = rlim_t{8} << 30;  // an absurd allocation fails
constexpr std::size_t kMaxInsertedBytes = 64;

struct Options {
  double seconds = 2;
  std::uint64_t seed = 1;
  std::vector<std::filesystem::path> inputs;  // files, or folders of files
};

Options parse_options(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const bool takes_value = argument == "--seconds" || argument == "--seed";
    if (takes_value && i + 1 == argc) throw std::runtime_error(argument + ": expected a value");
    if (argument == "--seconds") {
      options.seconds = std::stod(argv[++i]);
    } else if (argument == "--seed") {
      options.seed = std::stoull(argv[++i]);
    } else {
      options.inputs.emplace_back(argument);
    }
  }
  return options;
}

std::vector<Bytes> read_seeds(const std::vector<std::filesystem::path>& inputs) {
  std::vector<std::filesystem::path> files;
  for (const auto& input : inputs) {
    if (!std::filesystem::is_directory(input)) {
      files.push_back(input);
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator(input)) {
      if (entry.is_regular_file()) files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());  // the order of a folder is the file system's
  std::vector<Bytes> seeds;
  for (const auto& file : files) {
    std::ifstream stream(file, std::ios::binary);
    if (!stream) throw std::runtime_error(file.string() + ": cannot be read");
    seeds.emplace_back(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
  }
  if (seeds.empty()) throw std::runtime_error("no seed files");
  return seeds;
}

/// The file that holds the input which is running. One that is run again is kept in the end.
class LastInput {
 public:
  LastInput(std::string path, bool keep)
      : path_(std::move(path)),
        keep_(keep),
        file_(open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644)) {
    if (file_ < 0) throw std::runtime_error(path_ + ": cannot be written");
  }
  ~LastInput() {
    close(file_);
    if (!keep_) unlink(path_.c_str());
  }
  LastInput(const LastInput&) = delete;
  LastInput& operator=(const LastInput&) = delete;

  void store(const Bytes& input) {
    if (ftruncate(file_, static_cast<off_t>(input.size())) != 0 ||
        pwrite(file_, input.data(), input.size(), 0) != static_cast<ssize_t>(input.size())) {
      throw std::runtime_error(path_ + ": cannot be written");
    }
  }

 private:
  std::string path_;
  bool keep_;
  int file_;
};

class Mutator {
 public:
  Mutator(const std::vector<Bytes>& seeds, std::uint64_t seed) : seeds_(seeds), random_(seed) {}

  Bytes next() {
    Bytes input = seeds_[below(seeds_.size())];
    const std::size_t steps = std::size_t{1} << below(5);  // 1 to 16: often few, sometimes many
    for (std::size_t i = 0; i < steps; ++i) mutate(input);
    if (input.size() > kMaxBytes) input.resize(kMaxBytes);
    return input;
  }

 private:
  std::size_t below(std::size_t limit) { return static_cast<std::size_t>(random_() % limit); }
  std::uint8_t byte() { return static_cast<std::uint8_t>(random_()); }

  void mutate(Bytes& input) {
    if (input.empty()) return insert(input);
    switch (below(8)) {
      case 0:
        return flip_bit(input);
      case 1:
        return set_byte(input);
      case 2:
        return set_integer(input);
      case 3:
        return truncate(input);
      case 4:
        return insert(input);
      case 5:
        return erase(input);
      case 6:
        return copy_block(input);
      default:
        return splice(input);
    }
  }

  void flip_bit(Bytes& input) {
    input[below(input.size())] ^= static_cast<std::uint8_t>(1U << below(8));
  }

  void set_byte(Bytes& input) {
    // Bytes with a meaning in the text formats, beside any byte.
    constexpr std::string_view kMarks = "\"\\{}[]:,0-9.eE \n\t#&*!|>'%@`\0\x7f";
    input[below(input.size())] =
        below(2) == 0 ? byte() : static_cast<std::uint8_t>(kMarks[below(kMarks.size())]);
  }

  void set_integer(Bytes& input) {
    constexpr std::array<std::uint64_t, 14> kIntegers = {0,
                                                         1,
                                                         0x7f,
                                                         0x80,
                                                         0xff,
                                                         0x7fff,
                                                         0xffff,
                                                         0x7fffffff,
                                                         0x80000000,
                                                         0xffffffffU,
                                                         0x100000000,
                                                         0x7fffffffffffffffU,
                                                         0x8000000000000000U,
                                                         0xffffffffffffffffU};
    std::uint64_t value = kIntegers[below(kIntegers.size())];
    value += below(4) == 0 ? below(33) - 16 : 0;  // wraps on purpose
    const std::size_t width = std::size_t{1} << below(4);
    const std::size_t at = below(input.size());
    std::memcpy(&input[at], &value, std::min(width, input.size() - at));
  }

  void truncate(Bytes& input) { input.resize(below(input.size())); }

  void insert(Bytes& input) {
    const Bytes block(1 + below(kMaxInsertedBytes), byte());
    input.insert(input.begin() + static_cast<std::ptrdiff_t>(below(input.size() + 1)),
                 block.begin(), block.end());
  }

  void erase(Bytes& input) {
    const std::size_t begin = below(input.size());
    const std::size_t count = 1 + below(std::min(input.size() - begin, kMaxInsertedBytes));
    const auto first = input.begin() + static_cast<std::ptrdiff_t>(begin);
    input.erase(first, first + static_cast<std::ptrdiff_t>(count));
  }

  void copy_block(Bytes& input) {
    const std::size_t from = below(input.size());
    const std::size_t count = 1 + below(input.size() - from);
    const auto first = input.begin() + static_cast<std::ptrdiff_t>(from);
    const Bytes block(first, first + static_cast<std::ptrdiff_t>(count));
    const std::size_t to = below(input.size());
    if (below(2) == 0) {
      std::memcpy(&input[to], block.data(), std::min(count, input.size() - to));
    } else {
      input.insert(input.begin() + static_cast<std::ptrdiff_t>(to), block.begin(), block.end());
    }
  }

  void splice(Bytes& input) {
    const Bytes& other = seeds_[below(seeds_.size())];
    if (other.empty()) return;
    input.resize(below(input.size()));
    const auto tail = other.begin() + static_cast<std::ptrdiff_t>(below(other.size()));
    input.insert(input.end(), tail, other.end());
  }

  const std::vector<Bytes>& seeds_;
  std::mt19937_64 random_;
};

void execute(const Bytes& input, LastInput& last) {
  last.store(input);
  alarm(kHangSeconds);  // the default action ends the program
  // A block of exactly this size, so that a sanitizer sees a read one byte too far.
  Bytes exact(input.begin(), input.end());
  exact.shrink_to_fit();
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

void limit_memory() {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // whose shadows are huge
  const rlimit limit{kMaxAddressSpace, kMaxAddressSpace};
  setrlimit(RLIMIT_AS, &limit);
#endif
}

void run(const Options& options, const std::string& program) {
  const std::vector<Bytes> seeds = read_seeds(options.inputs);
  const std::string name = program + ".input";
  const auto is_last = [&](const std::filesystem::path& input) {
    std::error_code missing;
    return std::filesystem::equivalent(input, name, missing);
  };
  LastInput last(name, std::any_of(options.inputs.begin(), options.inputs.end(), is_last));
  limit_memory();
  for (const Bytes& seed : seeds) execute(seed, last);
  Mutator mutator(seeds, options.seed);
  const auto start = Clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  std::uint64_t executions = 0;
  while (elapsed() < options.seconds) {
    execute(mutator.next(), last);
    ++executions;
  }
  alarm(0);
  std::cout << seeds.size() << " seeds, " << executions << " mutations";
  if (executions > 0) {
    std::cout << ", " << static_cast<std::uint64_t>(static_cast<double>(executions) / elapsed())
              << " executions/s";
  }
  std::cout << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  // Not inside a try block: what an input throws must end the program and leave the input.
  std::set_terminate([] {
    if (const auto error = std::current_exception()) {
      try {
        std::rethrow_exception(error);
      } catch (const std::exception& e) {
        std::cerr << "uncaught: " << e.what() << "\n";
      } catch (...) {
        std::cerr << "uncaught exception of an unknown type\n";
      }
    }
    std::abort();
  });
  run(parse_options(argc, argv), argv[0]);
}
