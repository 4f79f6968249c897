#include "models/files/safetensors.hpp"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <sys/resource.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "models/files/safetensors_dtype.hpp"

namespace tailor::models {
namespace {

namespace fs = std::filesystem;
using Catch::Matchers::Contains;

struct Folder {
  fs::path path = fs::temp_directory_path() / ("tailor_safetensors_" + std::to_string(getpid()));
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
};

std::string file_of(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t size = header.size();
  std::string bytes(sizeof size, '\0');
  std::memcpy(bytes.data(), &size, sizeof size);
  return bytes + header + std::string(data_bytes, '\x01');
}

void write(const fs::path& file, const std::string& bytes) {
  std::ofstream(file, std::ios::binary) << bytes;
}

std::string problem_of(const std::string& bytes) {
  try {
    parse_safetensors(bytes, bytes.size(), "m.safetensors");
  } catch (const FileError& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("Every dtype comes back bit for bit, with names, order and metadata") {
  const Folder folder;
  const std::vector<at::ScalarType> dtypes = {
      at::kDouble,        at::kLong,        at::kUInt64,         at::kFloat, at::kInt,
      at::kUInt32,        at::kHalf,        at::kBFloat16,       at::kShort, at::kUInt16,
      at::kFloat8_e4m3fn, at::kFloat8_e5m2, at::kFloat8_e8m0fnu, at::kChar,  at::kByte,
      at::kBool};
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const at::ScalarType dtype : dtypes) {
    at::Tensor bytes =
        at::arange(35 * static_cast<std::int64_t>(c10::elementSize(dtype))).to(at::kByte);
    if (dtype == at::kBool) bytes = bytes.remainder(2);
    tensors.emplace_back(std::string("t.") + c10::toString(dtype), bytes.view(dtype).view({5, 7}));
  }
  tensors.emplace_back("scalar", at::full({}, 3, at::kByte));
  tensors.emplace_back("empty", at::zeros({0, 4}, at::kByte));
  tensors.emplace_back("transposed", at::arange(6).to(at::kByte).view({2, 3}).t());
  const fs::path file = folder.path / "m.safetensors";
  write_safetensors(file, tensors, {{"format", "pt"}, {"note", "caf\u00e9 \"x\""}});

  const auto opened = open_safetensors(file);
  CHECK(opened->metadata() ==
        std::map<std::string, std::string>{{"format", "pt"}, {"note", "caf\u00e9 \"x\""}});
  REQUIRE(opened->entries().size() == tensors.size());
  for (const auto& [name, tensor] : tensors) {
    INFO(name);
    REQUIRE(opened->contains(name));
    const at::Tensor read = opened->read(name, tensor.scalar_type());
    REQUIRE(read.scalar_type() == tensor.scalar_type());
    REQUIRE(read.sizes() == tensor.sizes());
    const at::Tensor written = tensor.contiguous();
    REQUIRE((read.numel() == 0 ||
             std::memcmp(read.const_data_ptr(), written.const_data_ptr(), read.nbytes()) == 0));
  }
  CHECK(opened->entries()[0].name == "t.Double");
  CHECK(opened->entries()[0].dtype == "F64");
  CHECK(opened->entries()[0].shape == std::vector<std::int64_t>{5, 7});
}

TEST_CASE("Tensors of mixed sizes are all aligned, whatever order they are given in") {
  const Folder folder;
  const fs::path file = folder.path / "m.safetensors";
  write_safetensors(file,
                    {{"bytes", at::ones({3}, at::kByte)},
                     {"floats", at::ones({2}, at::kFloat)},
                     {"halves", at::ones({5}, at::kHalf)}},
                    {});
  std::ifstream stream(file, std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(stream), {});
  for (const auto& tensor : parse_safetensors(bytes, bytes.size(), "m").tensors) {
    CHECK(tensor.begin % c10::elementSize(*dtype_named(tensor.dtype)) == 0);
  }
}

TEST_CASE(
    "Floating tensors are read in the asked dtype, also from an address that is not aligned") {
  const Folder folder;
  const fs::path file = folder.path / "m.safetensors";
  const std::string header = R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                             R"("x":{"dtype":"F32","shape":[2],"data_offsets":[1,9]},)"
                             R"("h":{"dtype":"F16","shape":[2],"data_offsets":[9,13]}})";
  std::string bytes = file_of(header, 13);
  const float values[2] = {1.5F, -2.25F};
  std::memcpy(bytes.data() + bytes.size() - 12, values, sizeof values);
  const std::uint16_t halves[2] = {0x3c00, 0xc200};  // 1, -3
  std::memcpy(bytes.data() + bytes.size() - 4, halves, sizeof halves);
  write(file, bytes);
  const auto opened = open_safetensors(file);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble}) {
    const at::Tensor x = opened->read("x", dtype);
    CHECK(x.scalar_type() == dtype);
    CHECK(x.to(at::kDouble)[0].item<double>() == 1.5);
    CHECK(x.to(at::kDouble)[1].item<double>() == -2.25);
    const at::Tensor h = opened->read("h", dtype).to(at::kDouble);
    CHECK(h[0].item<double>() == 1.0);
    CHECK(h[1].item<double>() == -3.0);
  }
  CHECK_THROWS_WITH(opened->read("b", at::kFloat),
                    Contains("\"b\"") && Contains("expected a tensor of dtype F32, found U8"));
  CHECK_THROWS_WITH(opened->read("y", at::kFloat), Contains("tensor \"y\": not in the file"));
}

TEST_CASE("A tensor that was read outlives the file and is written without touching it") {
  const Folder folder;
  const fs::path file = folder.path / "m.safetensors";
  write_safetensors(file, {{"x", at::ones({100000})}}, {});
  at::Tensor x = open_safetensors(file)->read("x", at::kFloat);
  x.zero_();
  CHECK(at::equal(open_safetensors(file)->read("x", at::kFloat), at::ones({100000})));
}

TEST_CASE("Every hostile header is an error of its own") {
  const auto tensor = [](const std::string& fields) {
    return file_of("{\"a\":{" + fields + "}}", 4);
  };
  const std::string good = R"("dtype":"F32","shape":[1],"data_offsets":[0,4])";
  REQUIRE(problem_of(tensor(good)).empty());
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "expected at least 8 bytes, found 0"},
      {std::string(7, '\0'), "expected at least 8 bytes, found 7"},
      {std::string(8, '\xff'), "header would have 18446744073709551615 bytes"},
      {std::string("\x01\xe1\xf5\x05\0\0\0\0", 8), "the limit is 100000000"},
      {std::string("\x10\0\0\0\0\0\0\0{}", 10), "truncated: a header of 16 bytes, but only 2"},
      {file_of("", 0), "must begin with {"},
      {file_of(" {}", 0), "must begin with {"},
      {file_of("[]", 0), "must begin with {"},
      {file_of("{\"a\"", 0), "no JSON at byte 12"},
      {file_of("{}x", 0), "no JSON at byte"},
      {file_of("{\"a\xff\":1}", 0), "no JSON at byte"},
      {file_of("{\"a\":1}", 0), "tensor \"a\": expected an object, found a number"},
      {file_of("{\"a\":[]}", 0), "tensor \"a\": expected an object, found a list"},
      {file_of("{\"a\":null}", 0), "tensor \"a\": expected an object, found null"},
      {file_of("{\"a\":{" + good + "},\"a\":{" + good + "}}", 4), "\"a\" is given twice"},
      {file_of("{\"__metadata__\":3}", 0), "__metadata__: expected an object, found a number"},
      {file_of("{\"__metadata__\":{\"k\":3}}", 0),
       "metadata \"k\": expected a text, found a number"},
      {file_of("{\"__metadata__\":{\"k\":{}}}", 0),
       "metadata \"k\": expected a text, found an object"},
      {file_of(R"({"__metadata__":{"k":"1","k":"2"}})", 0), "metadata \"k\" is given twice"},
      {tensor(R"("shape":[1],"data_offsets":[0,4])"), "tensor \"a\": dtype is missing"},
      {tensor(R"("dtype":"F32","data_offsets":[0,4])"), "shape is missing"},
      {tensor(R"("dtype":"F32","shape":[1])"), "data_offsets is missing"},
      {tensor(R"("dtype":"F33","shape":[1],"data_offsets":[0,4])"), "dtype \"F33\" is not known"},
      {tensor(R"("dtype":7,"shape":[1],"data_offsets":[0,4])"), "dtype: expected a text"},
      {tensor(R"("dtype":"F32",)" + good), "dtype is given twice"},
      {tensor(good + R"(,"shape":[1])"), "shape is given twice"},
      {tensor(good + R"(,"data_offsets":[0,4])"), "data_offsets is given twice"},
      {tensor(good + R"(,"strides":[1])"), "found \"strides\""},
      {tensor(R"("dtype":"F32","shape":1,"data_offsets":[0,4])"), "shape: expected a list"},
      {tensor(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])"),
       "shape: expected a whole number >= 0, found -1"},
      {tensor(R"("dtype":"F32","shape":[1.5],"data_offsets":[0,4])"), "found 1.5"},
      {tensor(R"("dtype":"F32","shape":[[1]],"data_offsets":[0,4])"), "found a list"},
      {tensor(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4])"),
       "is too large"},
      {tensor(R"("dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0])"),
       "its shape overflows"},
      {tensor(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4])"),
       "its shape overflows"},
      {tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"),
       "need 8 bytes, data_offsets 0 to 4 hold 4"},
      {tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,8])"),
       "data_offsets: expected two numbers"},
      {tensor(R"("dtype":"F32","shape":[1],"data_offsets":[4])"),
       "data_offsets: expected two numbers"},
      {tensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"), "run backwards"},
      {tensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"),
       "reach beyond the file's 4 bytes"},
      {file_of("{\"a\":{" + good + "}}", 5), "1 bytes after the last tensor belong to none"},
      {file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", 2), "(a hole)"},
      {file_of(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
               R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
               3),
       "(overlaps the tensor before)"},
  };
  for (const auto& [bytes, problem] : cases) CHECK_THAT(problem_of(bytes), Contains(problem));
}

TEST_CASE("A file cut at any length is an error and never a crash") {
  const Folder folder;
  const fs::path file = folder.path / "m.safetensors";
  write_safetensors(file, {{"x", at::ones({3})}, {"y", at::ones({2}, at::kByte)}}, {{"k", "v"}});
  std::ifstream stream(file, std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(stream), {});
  REQUIRE(problem_of(bytes).empty());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    CHECK_FALSE(problem_of(bytes.substr(0, size)).empty());
  }
}

TEST_CASE("A deeply nested header is refused without recursion") {
  const std::string deep = "{\"a\":" + std::string(1000000, '[');
  CHECK_THAT(problem_of(file_of(deep, 0)), Contains("expected an object, found a list"));
}

TEST_CASE("A sharded index places every tensor in the shard that it names") {
  const Folder folder;
  write_safetensors(folder.path / "1.safetensors", {{"a", at::full({2}, 1.0)}}, {});
  write_safetensors(folder.path / "2.safetensors",
                    {{"b", at::full({2}, 2.0)}, {"c", at::full({1}, 3.0)}}, {});
  const fs::path index = folder.path / "model.safetensors.index.json";
  const auto open_with = [&](const std::string& map) {
    write(index, "{\"metadata\":{},\"weight_map\":" + map + "}");
    return open_sharded_safetensors(index);
  };
  const auto source = open_with(R"({"a":"1.safetensors","b":"2.safetensors","c":"2.safetensors"})");
  CHECK(source->entries().size() == 3);
  CHECK(source->contains("c"));
  CHECK(source->read("b", at::kFloat)[0].item<float>() == 2.0F);
  CHECK_THROWS_WITH(source->read("d", at::kFloat), Contains("tensor \"d\": not in the index"));
  CHECK_THROWS_WITH(open_with(R"({"a":"2.safetensors"})"),
                    Contains("tensor \"a\" is not in 2.safetensors"));
  CHECK_THROWS_WITH(open_with(R"({"a":"1.safetensors","b":"2.safetensors"})"),
                    Contains("does not place tensor \"c\" in 2.safetensors"));
  CHECK_THROWS_WITH(open_with(R"({"a":"3.safetensors"})"),
                    Contains("3.safetensors: cannot be read"));
  CHECK_THROWS_WITH(open_with(R"({"a":"../1.safetensors"})"),
                    Contains("\"a\": expected a file name"));
  CHECK_THROWS_WITH(open_with("[]"), Contains("weight_map: expected an object"));
  CHECK_THROWS_WITH(open_with("{"), Contains("no JSON"));
}

TEST_CASE("A disk that takes no more is a system error that names the file and leaves nothing") {
  const Folder folder;
  const fs::path file = folder.path / "m.safetensors";
  write_safetensors(file, {{"x", at::ones({4})}}, {});
  // A limit on file sizes stands for the full disk: the write is short, the next one fails.
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{10000, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  CHECK_THROWS_MATCHES(
      write_safetensors(file, {{"x", at::ones({100000})}}, {}), std::system_error,
      Catch::Matchers::Predicate<std::system_error>([&](const std::system_error& error) {
        return std::string(error.what()).find(file.string()) == 0 && error.code().value() == EFBIG;
      }));
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  CHECK(std::distance(fs::directory_iterator(folder.path), fs::directory_iterator()) == 1);
  CHECK(open_safetensors(file)->read("x", at::kFloat).numel() == 4);  // the old one is still there
  CHECK_THROWS_AS(write_safetensors(folder.path / "no" / "m.safetensors", {}, {}),
                  std::system_error);
}

TEST_CASE("What is no file of ours is named") {
  const Folder folder;
  CHECK_THROWS_WITH(open_safetensors(folder.path / "x"),
                    Contains("x: cannot be read: No such file"));
  CHECK_THROWS_WITH(open_safetensors(folder.path), Contains("expected a regular file"));
  CHECK_THROWS_WITH(
      write_safetensors(folder.path / "x", {{"a", at::ones({1})}, {"a", at::ones({1})}}, {}),
      Contains("tensor \"a\": given twice"));
  CHECK_THROWS_WITH(write_safetensors(folder.path / "x", {{"a\xff", at::ones({1})}}, {}),
                    Contains("is not UTF-8"));
  CHECK_THROWS_WITH(
      write_safetensors(folder.path / "x", {{"a", at::ones({1}, at::kComplexDouble)}}, {}),
      Contains("no dtype ComplexDouble"));
  CHECK(fs::is_empty(folder.path));
}

}  // namespace
}  // namespace tailor::models
