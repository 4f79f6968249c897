#include "peft/gguf_adapter.hpp"

#include <ATen/TensorOperators.h>

#include <array>
#include <bit>
#include <cstring>
#include <regex>
#include <utility>
#include <vector>

#include "configs/reader.hpp"
#include "models/files/durable_file.hpp"

namespace tailor::peft {
namespace {

using models::FileError;

static_assert(std::endian::native == std::endian::little, "GGUF is written as memory lies");

constexpr std::uint32_t kVersion = 3, kTypeUint32 = 4, kTypeFloat32 = 6, kTypeString = 8;
constexpr std::uint32_t kTensorF32 = 0;  // also general.file_type: all float32
constexpr std::size_t kAlignment = 32;   // the format's default

/// HF's path below "model.layers.N." and GGUF's below "blk.N.".
constexpr std::array<std::pair<const char*, const char*>, 7> kNames{
    {{"self_attn.q_proj", "attn_q"},
     {"self_attn.k_proj", "attn_k"},
     {"self_attn.v_proj", "attn_v"},
     {"self_attn.o_proj", "attn_output"},
     {"mlp.gate_proj", "ffn_gate"},
     {"mlp.up_proj", "ffn_up"},
     {"mlp.down_proj", "ffn_down"}}};

struct Bytes {
  std::string text;

  template <class T>
  void number(T value) {
    text.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void string(const std::string& value) {
    number(static_cast<std::uint64_t>(value.size()));
    text += value;
  }
  void pad() { text.resize((text.size() + kAlignment - 1) / kAlignment * kAlignment, '\0'); }
};

struct Name {
  std::string gguf;    // "blk.3.attn_q.weight"
  std::string module;  // "attn_q"
};

Name gguf_name(const std::string& path, const std::string& file) {
  static const std::regex kLayer(R"(model\.layers\.(\d{1,9})\.(.+))");
  std::smatch match;
  if (std::regex_match(path, match, kLayer)) {
    for (const auto& [ours, theirs] : kNames)
      if (match[2] == ours) return {"blk." + match[1].str() + '.' + theirs + ".weight", theirs};
  }
  throw FileError(file + ": " + path +
                  " has no name in GGUF; expected attention and MLP projections");
}

/// Rows of each head from (two halves) to (pairs), as writers of GGUF files permute q and k.
at::Tensor interleaved(const at::Tensor& B_OR, std::int64_t num_heads, const std::string& path,
                       const std::string& file) {
  const auto out = B_OR.size(0);
  if (num_heads < 1 || out % (2 * num_heads) != 0)
    throw FileError(file + ": " + path + " has " + std::to_string(out) +
                    " rows, expected a multiple of twice the base's " + std::to_string(num_heads) +
                    " heads");
  return B_OR.reshape({num_heads, 2, out / num_heads / 2, B_OR.size(1)})
      .transpose(1, 2)
      .reshape(B_OR.sizes());
}

struct GgufTensor {
  std::string name;
  at::Tensor values;  // float32, contiguous
};

std::vector<GgufTensor> convert(const AdapterFiles& files, const GgufBase& base, double alpha) {
  std::vector<GgufTensor> tensors;
  for (const auto& path : files.config.target_modules) {  // the full paths that have factors
    const auto [name, module] = gguf_name(path, files.file);
    const auto A_RI = files.factors.at(factor_key(path, 'A'));
    auto B_OR = files.factors.at(factor_key(path, 'B'));
    const auto their_scale = alpha / static_cast<double>(A_RI.size(0));
    const auto quotient = files.config.scale_of(path) / their_scale;
    if (quotient != 1.0) B_OR = B_OR * quotient;
    if (base.architecture == "llama" && (module == "attn_q" || module == "attn_k"))
      B_OR = interleaved(B_OR,
                         module == "attn_q" ? base.num_attention_heads : base.num_key_value_heads,
                         path, files.file);
    tensors.push_back({name + ".lora_a", A_RI.contiguous()});
    tensors.push_back({name + ".lora_b", B_OR.contiguous()});
  }
  return tensors;
}

void put_header(Bytes& out, const std::vector<GgufTensor>& tensors, const std::string& architecture,
                double alpha) {
  const std::vector<std::pair<std::string, std::string>> texts{
      {"general.architecture", architecture},
      {"general.type", "adapter"},
      {"adapter.type", "lora"}};
  out.text = "GGUF";
  out.number(kVersion);
  out.number(static_cast<std::uint64_t>(tensors.size()));
  out.number(static_cast<std::uint64_t>(texts.size() + 2));
  for (const auto& [key, value] : texts) {
    out.string(key);
    out.number(kTypeString);
    out.string(value);
  }
  out.string("general.file_type");
  out.number(kTypeUint32);
  out.number(kTensorF32);
  out.string("adapter.lora.alpha");
  out.number(kTypeFloat32);
  out.number(static_cast<float>(alpha));
}

}  // namespace

GgufBase read_gguf_base(const std::string& config_json, const std::string& file) {
  const auto document = configs::Document::json(config_json, file);
  auto root = document.root();
  GgufBase base;
  base.architecture = root.choice("model_type", {"llama", "qwen2", "qwen3"});
  base.num_attention_heads = root.positive("num_attention_heads");
  base.num_key_value_heads = root.positive("num_key_value_heads", base.num_attention_heads);
  document.check();
  return base;
}

void write_gguf_adapter(const AdapterFiles& files, const GgufBase& base,
                        const std::filesystem::path& file) {
  if (!files.saved.empty())
    throw models::FileError(files.file +
                            ": holds trained routers, for which adapters in GGUF have no place; "
                            "merge it instead");
  const auto alpha = files.config.lora_alpha == 0.0 ? 1.0 : files.config.lora_alpha;  // 0: no scale
  const auto tensors = convert(files, base, alpha);
  Bytes out;
  put_header(out, tensors, base.architecture, alpha);
  std::uint64_t offset = 0;
  for (const auto& [name, values] : tensors) {
    out.string(name);
    out.number(std::uint32_t{2});
    out.number(static_cast<std::uint64_t>(values.size(1)));  // the contiguous dimension first
    out.number(static_cast<std::uint64_t>(values.size(0)));
    out.number(kTensorF32);
    out.number(offset);
    offset += (values.nbytes() + kAlignment - 1) / kAlignment * kAlignment;
  }
  out.pad();
  for (const auto& [name, values] : tensors) {
    out.text.append(static_cast<const char*>(values.const_data_ptr()), values.nbytes());
    out.pad();
  }
  models::write_durable_file(file, out.text);
}

}  // namespace tailor::peft
