#include "models/files/gguf.hpp"

#include <ATen/Functions.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "models/files/ggml_type.hpp"
#include "models/files/safetensors.hpp"

namespace tailor::models {
namespace {

namespace fs = std::filesystem;
using Catch::Matchers::Contains;

const char* const kGolden = TAILOR_GOLDEN "/files/";
const char* const kTypes[] = {"F32",  "F16",  "BF16", "Q4_0", "Q4_1", "Q5_0",
                              "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"};

std::string read_bytes(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::uint32_t type_named(const std::string& name) {
  for (std::uint32_t id = 0; id < 64; ++id) {
    const GgmlType* type = find_ggml_type(id);
    if (type != nullptr && type->name == name) return id;
  }
  FAIL("no type " << name);
  return 0;
}

std::string problem_of(const std::string& bytes) {
  try {
    parse_gguf(bytes, "m.gguf");
  } catch (const FileError& error) {
    return error.what();
  }
  return "";
}

/// Bytes of a GGUF file, written field by field so that any of them can be wrong.
struct Writer {
  std::string bytes = "GGUF";

  template <typename T>
  Writer& put(T value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Writer& text(const std::string& value) {
    put<std::uint64_t>(value.size());
    bytes += value;
    return *this;
  }
  Writer& start(std::uint64_t tensors, std::uint64_t pairs, std::uint32_t version = 3) {
    return put(version).put(tensors).put(pairs);
  }
  Writer& tensor(const std::string& name, const std::vector<std::uint64_t>& sizes,
                 std::uint32_t type, std::uint64_t offset) {
    text(name).put(static_cast<std::uint32_t>(sizes.size()));
    for (const std::uint64_t size : sizes) put(size);
    return put(type).put(offset);
  }
  Writer& data(const std::string& values, std::size_t alignment = 32) {
    bytes.resize((bytes.size() + alignment - 1) / alignment * alignment);
    bytes += values;
    return *this;
  }
};

TEST_CASE("Every block format gives the values of ggml's own Python package, bit for bit") {
  const auto golden = open_safetensors(std::string(kGolden) + "dequantize.safetensors");
  for (const char* const name : kTypes) {
    INFO(name);
    const at::Tensor blocks = golden->read(std::string(name) + ".blocks", at::kByte);
    const at::Tensor values = golden->read(std::string(name) + ".values", at::kFloat);
    const at::Tensor out = at::empty_like(values);
    dequantize(type_named(name), blocks.const_data_ptr(), values.numel(),
               out.mutable_data_ptr<float>());
    CHECK(at::equal(out, values));
  }
}

TEST_CASE("Tensors of a mixed file are read by name in the asked dtype") {
  const auto golden = open_safetensors(std::string(kGolden) + "dequantize.safetensors");
  Writer writer;
  writer.start(std::size(kTypes), 0);
  std::string data;
  for (const char* const name : kTypes) {
    const at::Tensor blocks = golden->read(std::string(name) + ".blocks", at::kByte);
    writer.tensor(name, {256, 4}, type_named(name), data.size());
    data.append(static_cast<const char*>(blocks.const_data_ptr()), blocks.nbytes());
    data.resize((data.size() + 31) / 32 * 32);
  }
  const fs::path file = fs::temp_directory_path() / ("tailor_gguf_" + std::to_string(getpid()));
  std::ofstream(file, std::ios::binary) << writer.data(data).bytes;
  const auto opened = open_gguf(file);
  fs::remove(file);  // the mapping stays
  REQUIRE(opened->entries().size() == std::size(kTypes));
  for (const char* const name : kTypes) {
    INFO(name);
    const at::Tensor values =
        golden->read(std::string(name) + ".values", at::kFloat).view({4, 256});
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      const at::Tensor read = opened->read(name, dtype);
      CHECK(read.scalar_type() == dtype);
      CHECK(at::equal(read, values.to(dtype)));
    }
  }
  CHECK(opened->entries()[4].dtype == "Q4_1");
  CHECK(opened->entries()[4].shape == std::vector<std::int64_t>{4, 256});
  CHECK(opened->entries()[4].num_bytes == 640);
  CHECK_THROWS_WITH(opened->read("x", at::kFloat), Contains("tensor \"x\": not in the file"));
  CHECK_THROWS_WITH(opened->read("F32", at::kLong), Contains("floating dtype"));
}

TEST_CASE("Bfloat16 keeps infinities and NaN and rounds ties to even") {
  const std::vector<float> values = {1.00390625F, 1.01171875F, -1.00390625F, 3.4e38F, 1e-40F,
                                     INFINITY,    -INFINITY,   NAN,          0.0F,    -0.0F};
  Writer writer;
  writer.start(1, 0).tensor("x", {values.size()}, 0, 0);
  writer.data(std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4));
  const fs::path file = fs::temp_directory_path() / ("tailor_gguf_" + std::to_string(getpid()));
  std::ofstream(file, std::ios::binary) << writer.bytes;
  const at::Tensor read = open_gguf(file)->read("x", at::kBFloat16);
  fs::remove(file);
  const at::Tensor expected = at::tensor(values, at::kFloat).to(at::kBFloat16);
  CHECK(at::equal(read.isnan(), expected.isnan()));
  CHECK(at::equal(read.nan_to_num(7), expected.nan_to_num(7)));
  CHECK(at::equal(read.nan_to_num(7).signbit(), expected.nan_to_num(7).signbit()));
}

TEST_CASE("A type that cannot be dequantised is listed and refused by name when it is read") {
  Writer writer;
  writer.start(1, 0).tensor("x", {256}, 10, 0).data(std::string(84, '\0'));
  const fs::path file = fs::temp_directory_path() / ("tailor_gguf_" + std::to_string(getpid()));
  std::ofstream(file, std::ios::binary) << writer.bytes;
  const auto opened = open_gguf(file);
  fs::remove(file);
  CHECK(opened->entries()[0].dtype == "Q2_K");
  CHECK_THROWS_WITH(opened->read("x", at::kFloat),
                    Contains("tensor \"x\": type Q2_K is not supported; supported are F32"));
}

TEST_CASE("Metadata of every kind is read, in versions 2 and 3") {
  for (const std::uint32_t version : {2U, 3U}) {
    Writer writer;
    writer.start(0, 14, version);
    writer.text("u8").put(0U).put<std::uint8_t>(200);
    writer.text("i8").put(1U).put<std::int8_t>(-100);
    writer.text("u16").put(2U).put<std::uint16_t>(60000);
    writer.text("i16").put(3U).put<std::int16_t>(-30000);
    writer.text("u32").put(4U).put<std::uint32_t>(4000000000U);
    writer.text("i32").put(5U).put<std::int32_t>(-2000000000);
    writer.text("f32").put(6U).put(0.5F);
    writer.text("bool").put(7U).put<std::uint8_t>(1);
    writer.text("text").put(8U).text("caf\u00e9");
    writer.text("texts").put(9U).put(8U).put<std::uint64_t>(2).text("a").text("");
    writer.text("integers").put(9U).put(5U).put<std::uint64_t>(2).put(-1).put(7);
    writer.text("u64").put(10U).put<std::uint64_t>(~0ULL);
    writer.text("i64").put(11U).put<std::int64_t>(-5);
    writer.text("f64s").put(9U).put(12U).put<std::uint64_t>(1).put(0.25);
    const GgufHeader header = parse_gguf(writer.bytes, "m.gguf");
    CHECK(header.version == version);
    const auto value = [&](const char* key) { return header.metadata.at(key).value; };
    CHECK(std::get<std::uint64_t>(value("u8")) == 200);
    CHECK(std::get<std::int64_t>(value("i8")) == -100);
    CHECK(std::get<std::uint64_t>(value("u16")) == 60000);
    CHECK(std::get<std::int64_t>(value("i16")) == -30000);
    CHECK(std::get<std::uint64_t>(value("u32")) == 4000000000U);
    CHECK(std::get<std::int64_t>(value("i32")) == -2000000000);
    CHECK(std::get<double>(value("f32")) == 0.5);
    CHECK(std::get<bool>(value("bool")));
    CHECK(std::get<std::string>(value("text")) == "caf\u00e9");
    const auto array = [&](const char* key) { return std::get<GgufValue::Array>(value(key)); };
    CHECK(std::get<std::vector<std::string>>(array("texts")) == std::vector<std::string>{"a", ""});
    CHECK(std::get<std::vector<std::int64_t>>(array("integers")) ==
          std::vector<std::int64_t>{-1, 7});
    CHECK(std::get<std::uint64_t>(value("u64")) == ~0ULL);
    CHECK(std::get<std::int64_t>(value("i64")) == -5);
    CHECK(std::get<std::vector<double>>(array("f64s")) == std::vector<double>{0.25});
  }
}

TEST_CASE("Every wrong field of a GGUF file is an error of its own") {
  const std::uint64_t huge = ~0ULL;
  const auto file = [](auto build) {
    Writer writer;
    build(writer);
    return writer.bytes;
  };
  const auto tensors = [](const std::vector<std::tuple<std::string, std::vector<std::uint64_t>,
                                                       std::uint32_t, std::uint64_t>>& list,
                          std::size_t data) {
    Writer writer;
    writer.start(list.size(), 0);
    for (const auto& [name, sizes, type, offset] : list) writer.tensor(name, sizes, type, offset);
    return writer.data(std::string(data, '\0')).bytes;
  };
  const auto pair = [](std::uint32_t type, const std::string& value) {
    Writer writer;
    writer.start(0, 1).text("k").put(type);
    return writer.bytes + value;
  };
  const auto list = [&](std::uint32_t type, std::uint64_t length) {
    Writer head;
    head.bytes.clear();
    return pair(9, head.put(type).put(length).bytes);
  };
  REQUIRE(problem_of(tensors({{"a", {8}, 0, 0}, {"b", {32}, 8, 32}}, 66)).empty());
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "not a GGUF file: truncated"},
      {"GGML\3\0\0\0", "not a GGUF file: truncated"},
      {"NOTGGUF!", "expected it to begin with GGUF"},
      {file([](Writer& w) { w.start(0, 0, 1); }), "version: expected 2 or 3, found 1"},
      {file([](Writer& w) { w.start(0, 0, 4); }), "version: expected 2 or 3, found 4"},
      {file([](Writer& w) { w.start(0, 0, 0x03000000); }), "a big-endian file is not supported"},
      {file([&](Writer& w) { w.start(huge, 0); }), "18446744073709551615 tensors do not fit"},
      {file([&](Writer& w) { w.start(0, huge); }),
       "18446744073709551615 metadata pairs do not fit"},
      {file([](Writer& w) { w.start(0, 1); }), "1 metadata pairs do not fit"},
      {file([&](Writer& w) { w.start(0, 1).put(huge).put(huge); }), "metadata 0: truncated"},
      {file([](Writer& w) { w.start(0, 1).text(std::string(70000, 'k')).put(0U).put(0U); }),
       "a name of 70000 bytes"},
      {file([](Writer& w) { w.start(0, 2).text("k").put(4U).put(1U).text("k").put(4U).put(2U); }),
       "metadata \"k\": the key is given twice"},
      {pair(13, "...."), "metadata \"k\": value type 13 is not known"},
      {pair(7, "\2"), "metadata \"k\": expected a boolean, found byte 2"},
      {pair(8, std::string(8, '\x7f')), "metadata \"k\": truncated"},
      {list(9, 1), "a list of lists is not supported"},
      {list(99, 1), "value type 99 is not known"},
      {list(0, huge), "a list of 18446744073709551615 values, the limit is"},
      {list(0, 1000), "1000 values of a list do not fit into the 0 bytes"},
      {list(8, 1), "1 values of a list do not fit"},
      {file([](Writer& w) { w.start(0, 1).text("general.alignment").put(4U).put(48U); }),
       "expected a power of two within the file"},
      {file([](Writer& w) { w.start(0, 1).text("general.alignment").put(4U).put(0U); }),
       "expected a power of two within the file"},
      {file([](Writer& w) { w.start(0, 1).text("general.alignment").put(4U).put(1U << 31); }),
       "expected a power of two within the file"},
      {file([](Writer& w) { w.start(0, 1).text("general.alignment").put(8U).text("32"); }),
       "expected a power of two within the file"},
      {tensors({{"a", {1, 1, 1, 1, 1}, 0, 0}}, 4), "tensor \"a\": 5 dimensions, the limit is 4"},
      {tensors({{"a", {1ULL << 32, 1ULL << 32}, 0, 0}}, 4), "the size of its shape overflows"},
      {tensors({{"a", {1ULL << 62}, 0, 0}}, 4), "the size of its shape overflows"},
      {tensors({{"a", {huge}, 0, 0}}, 4), "the size of its shape overflows"},
      {tensors({{"a", {0, 1ULL << 62, 1ULL << 62}, 0, 0}}, 4), "the size of its shape overflows"},
      {tensors({{"a", {1}, 4, 0}}, 4), "tensor \"a\": type 4 is not known"},
      {tensors({{"a", {33}, 8, 0}}, 68),
       "rows of 33 values are no multiple of the block of 32 of Q8_0"},
      {tensors({{"a", {}, 8, 0}}, 68), "rows of 1 values are no multiple"},
      {tensors({{"a", {1}, 0, 4}}, 8), "offset 4 is no multiple of the alignment 32"},
      {tensors({{"a", {8}, 0, 0}}, 31), "tensor \"a\": truncated: its 32 bytes at offset 0"},
      {tensors({{"a", {8}, 0, 1ULL << 63}}, 32), "reach beyond the 32 bytes of data"},
      {tensors({{"a", {1}, 0, 0}, {"a", {1}, 0, 32}}, 36), "tensor \"a\": the name is given twice"},
      {tensors({{"a", {16}, 0, 0}, {"b", {8}, 0, 32}}, 64),
       "tensor \"b\": overlaps another tensor"},
  };
  for (const auto& [bytes, problem] : cases) CHECK_THAT(problem_of(bytes), Contains(problem));
}

TEST_CASE("A GGUF file cut at any length is an error and never a crash") {
  Writer writer;
  writer.start(2, 4);
  writer.text("text").put(8U).text("abc");
  writer.text("texts").put(9U).put(8U).put<std::uint64_t>(2).text("a").text("");
  writer.text("integers").put(9U).put(5U).put<std::uint64_t>(2).put(-1).put(7);
  writer.text("u64").put(10U).put<std::uint64_t>(1);
  writer.tensor("a", {8}, 0, 0).tensor("b", {32}, 8, 32).data(std::string(66, '\1'));
  // A copy of exactly the length: a sanitizer sees a read beyond it.
  REQUIRE(problem_of(writer.bytes).empty());
  for (std::size_t size = 0; size < writer.bytes.size(); ++size) {
    CHECK_FALSE(problem_of(writer.bytes.substr(0, size)).empty());
  }
  const std::string model = read_bytes(std::string(kGolden) + "tiny_llama.gguf");
  REQUIRE(problem_of(model).empty());
  for (std::size_t size = 0; size < model.size(); size += 997) {
    CHECK_FALSE(problem_of(model.substr(0, size)).empty());
  }
}

}  // namespace
}  // namespace tailor::models
