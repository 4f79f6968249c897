// Block formats of ggml (https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h). In all of
// them a value is a small integer times a scale of its block, plus a minimum in the _1 and K
// formats:
//
//   Q4_0 Q5_0 Q8_0   32 values: half d; x = d (q - offset)
//   Q4_1 Q5_1        32 values: half d, half m; x = d q + m
//   Q4_K Q5_K       256 values: half d, half m; 8 groups with a 6 bit scale s and minimum t; x = d
//   s q - m t Q6_K            256 values: 16 groups with a signed byte scale s, half d last; x = d
//   s (q - 32)
//
// Of 32 values packed as nibbles, byte i holds value i (low) and value i + 16 (high); fifth bits
// lie in a word of their own, bit i for value i.
#include <c10/util/Half.h>

#include <array>
#include <cstring>
#include <string>

#include "models/files/ggml_type.hpp"
#include "models/files/gguf.hpp"

namespace tailor::models {
namespace {

using Byte = std::uint8_t;

float half_at(const Byte* bytes) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, bytes, sizeof bits);
  return static_cast<float>(c10::Half(bits, c10::Half::from_bits()));
}

std::uint32_t word_at(const Byte* bytes) {
  std::uint32_t word = 0;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}

void q4_0(const Byte* block, float* out) {
  const float d = half_at(block);
  const Byte* q = block + 2;
  for (int i = 0; i < 16; ++i) {
    out[i] = static_cast<float>((q[i] & 0xf) - 8) * d;
    out[i + 16] = static_cast<float>((q[i] >> 4) - 8) * d;
  }
}

void q4_1(const Byte* block, float* out) {
  const float d = half_at(block), m = half_at(block + 2);
  const Byte* q = block + 4;
  for (int i = 0; i < 16; ++i) {
    out[i] = static_cast<float>(q[i] & 0xf) * d + m;
    out[i + 16] = static_cast<float>(q[i] >> 4) * d + m;
  }
}

/// 32 integers of 5 bits.
std::array<int, 32> fives(const Byte* high_bits, const Byte* q) {
  const std::uint32_t high = word_at(high_bits);
  std::array<int, 32> values;
  for (unsigned i = 0; i < 16; ++i) {
    values[i] = static_cast<int>((q[i] & 0xfU) | ((high >> i & 1U) << 4));
    values[i + 16] = static_cast<int>((q[i] >> 4U) | ((high >> (i + 16) & 1U) << 4));
  }
  return values;
}

void q5_0(const Byte* block, float* out) {
  const float d = half_at(block);
  const auto values = fives(block + 2, block + 6);
  for (std::size_t i = 0; i < 32; ++i) out[i] = static_cast<float>(values[i] - 16) * d;
}

void q5_1(const Byte* block, float* out) {
  const float d = half_at(block), m = half_at(block + 2);
  const auto values = fives(block + 4, block + 8);
  for (std::size_t i = 0; i < 32; ++i) out[i] = static_cast<float>(values[i]) * d + m;
}

void q8_0(const Byte* block, float* out) {
  const float d = half_at(block);
  const auto* q = reinterpret_cast<const std::int8_t*>(block + 2);
  for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(q[i]) * d;
}

/// Scale and minimum of one of the 8 groups of a K block: 6 bits each in 12 bytes, of groups 4 to 7
/// the upper two bits lie on top of the bytes of groups 0 to 3.
struct GroupScale {
  float scale, minimum;
};
GroupScale group_scale(const Byte* packed, int group) {
  if (group < 4) {
    return {static_cast<float>(packed[group] & 63), static_cast<float>(packed[group + 4] & 63)};
  }
  return {static_cast<float>((packed[group + 4] & 0xf) | (packed[group - 4] >> 6) << 4),
          static_cast<float>((packed[group + 4] >> 4) | (packed[group] >> 6) << 4)};
}

void q4_k(const Byte* block, float* out) {
  const float d = half_at(block), m = half_at(block + 2);
  const Byte* q = block + 16;
  for (int group = 0; group < 8; ++group) {
    const GroupScale g = group_scale(block + 4, group);
    const float scale = d * g.scale, minimum = m * g.minimum;
    const Byte* bytes = q + 32 * (group / 2);
    const int shift = 4 * (group % 2);
    for (int i = 0; i < 32; ++i) {
      out[32 * group + i] = static_cast<float>(bytes[i] >> shift & 0xf) * scale - minimum;
    }
  }
}

void q5_k(const Byte* block, float* out) {
  const float d = half_at(block), m = half_at(block + 2);
  const Byte* high = block + 16;
  const Byte* q = block + 48;
  for (int group = 0; group < 8; ++group) {
    const GroupScale g = group_scale(block + 4, group);
    const float scale = d * g.scale, minimum = m * g.minimum;
    const Byte* bytes = q + 32 * (group / 2);
    const int shift = 4 * (group % 2);
    for (int i = 0; i < 32; ++i) {
      const int value = (bytes[i] >> shift & 0xf) | (high[i] >> group & 1) << 4;
      out[32 * group + i] = static_cast<float>(value) * scale - minimum;
    }
  }
}

void q6_k(const Byte* block, float* out) {
  const Byte* low = block;
  const Byte* high = block + 128;
  const auto* scales = reinterpret_cast<const std::int8_t*>(block + 192);
  const float d = half_at(block + 208);
  for (int part = 0; part < 8; ++part) {  // 32 values each
    const Byte* low_bits = low + 64 * (part / 4) + 32 * (part % 2);
    const Byte* high_bits = high + 32 * (part / 4);
    const int low_shift = 4 * (part % 4 / 2), high_shift = 2 * (part % 4);
    for (int half = 0; half < 2; ++half) {
      const float scale = d * static_cast<float>(scales[2 * part + half]);
      for (int i = 16 * half; i < 16 * half + 16; ++i) {
        const int value = (low_bits[i] >> low_shift & 0xf) | (high_bits[i] >> high_shift & 3) << 4;
        out[32 * part + i] = static_cast<float>(value - 32) * scale;
      }
    }
  }
}

void f32(const Byte* value, float* out) { std::memcpy(out, value, sizeof *out); }
void f16(const Byte* value, float* out) { *out = half_at(value); }

void bf16(const Byte* value, float* out) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, value, sizeof bits);
  const std::uint32_t word = static_cast<std::uint32_t>(bits) << 16;
  std::memcpy(out, &word, sizeof word);
}

/// A loop a format, so that the block function is inlined into it.
template <void (*kBlock)(const Byte*, float*)>
void each_block(const Byte* bytes, const GgmlType& type, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; i += type.values, bytes += type.bytes) kBlock(bytes, out + i);
}

}  // namespace

void dequantize(std::uint32_t type, const void* blocks, std::int64_t count, float* out) {
  const GgmlType* entry = find_ggml_type(type);
  if (entry == nullptr) throw FileError("ggml type " + std::to_string(type) + " is not known");
  const Byte* bytes = static_cast<const Byte*>(blocks);
  switch (type) {
    case ggml::kF32:
      return each_block<f32>(bytes, *entry, count, out);
    case ggml::kF16:
      return each_block<f16>(bytes, *entry, count, out);
    case ggml::kBF16:
      return each_block<bf16>(bytes, *entry, count, out);
    case ggml::kQ4_0:
      return each_block<q4_0>(bytes, *entry, count, out);
    case ggml::kQ4_1:
      return each_block<q4_1>(bytes, *entry, count, out);
    case ggml::kQ5_0:
      return each_block<q5_0>(bytes, *entry, count, out);
    case ggml::kQ5_1:
      return each_block<q5_1>(bytes, *entry, count, out);
    case ggml::kQ8_0:
      return each_block<q8_0>(bytes, *entry, count, out);
    case ggml::kQ4_K:
      return each_block<q4_k>(bytes, *entry, count, out);
    case ggml::kQ5_K:
      return each_block<q5_k>(bytes, *entry, count, out);
    case ggml::kQ6_K:
      return each_block<q6_k>(bytes, *entry, count, out);
    default:
      throw FileError("type " + std::string(entry->name) +
                      " is not supported; supported are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, "
                      "Q8_0, Q4_K, Q5_K and Q6_K");
  }
}

}  // namespace tailor::models
