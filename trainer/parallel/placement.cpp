#include "trainer/parallel/placement.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <sstream>

#include "models/files/file_error.hpp"
#include "peft/target_modules.hpp"

namespace tailor::trainer {
namespace {

using peft::Trainable;

const std::string kPrefix = "base_model.model.";

std::vector<at::Tensor> values_of(const std::vector<Trainable>& trainables) {
  std::vector<at::Tensor> out;
  for (const auto& trainable : trainables) out.push_back(trainable.value);
  return out;
}

/// "model.layers.0.self_attn.q_proj.lora_A.weight" of an adapter file's key.
std::string name_of(const std::string& key) {
  return key.starts_with(kPrefix) ? key.substr(kPrefix.size()) : key;
}

/// One tensor of a checkpoint, or the part `index` of `count` of it, cut from dimension `dim`.
struct Piece {
  std::string name;
  at::Tensor value;
  std::int64_t dim = 0, index = 0, count = 1;
};

/// What this rank holds of the tensor that `key` names, the number-th of the trainable's.
Piece piece_of(const Trainable& trainable, const at::Tensor& value, std::size_t number) {
  const bool rows = trainable.kind == Trainable::Kind::PerExpert;
  Piece piece{.name = name_of(trainable.keys[number]),
              .value = rows ? value.select(0, static_cast<std::int64_t>(number)) : value};
  if (trainable.sharded_dim) {
    piece.dim = *trainable.sharded_dim - (rows ? 1 : 0);
    piece.index = trainable.sharding.index;
    piece.count = trainable.sharding.count;
  }
  return piece;
}

std::vector<Piece> pieces(const std::vector<Trainable>& trainables,
                          const std::vector<at::Tensor>& values) {
  std::vector<Piece> out;
  for (std::size_t i = 0; i < trainables.size(); ++i)
    for (std::size_t k = 0; k < trainables[i].keys.size(); ++k)
      out.push_back(piece_of(trainables[i], values[i], k));
  return out;
}

/// Pieces as bytes: a line of text each, then their float32 numbers.
std::string pack(const std::vector<Piece>& own) {
  std::ostringstream head;
  std::int64_t total = 0;
  for (const auto& piece : own) {
    head << piece.name << ' ' << piece.dim << ' ' << piece.index << ' ' << piece.count << ' '
         << piece.value.dim();
    for (const auto extent : piece.value.sizes()) head << ' ' << extent;
    head << '\n';
    total += piece.value.numel();
  }
  auto out = std::to_string(own.size()) + '\n' + head.str();
  out.reserve(out.size() + static_cast<std::size_t>(total) * sizeof(float));
  for (const auto& piece : own) {
    const auto flat = piece.value.contiguous();
    out.append(static_cast<const char*>(flat.const_data_ptr()), flat.nbytes());
  }
  return out;
}

std::vector<Piece> unpack(const std::string& bytes) {
  std::istringstream head(bytes);
  std::size_t number = 0;
  head >> number;
  std::vector<Piece> out(number);
  for (auto& piece : out) {
    std::size_t dims = 0;
    head >> piece.name >> piece.dim >> piece.index >> piece.count >> dims;
    std::vector<std::int64_t> shape(dims);
    for (auto& extent : shape) head >> extent;
    piece.value = at::empty(shape, at::kFloat);
  }
  head.get();  // the end of the last line
  auto at = static_cast<std::size_t>(head.tellg());
  for (auto& piece : out) {
    std::memcpy(piece.value.mutable_data_ptr(), bytes.data() + at, piece.value.nbytes());
    at += piece.value.nbytes();
  }
  return out;
}

void send_text(const std::string& text, distributed::Group& group, int to) {
  auto size = at::empty({1}, at::kLong);
  *size.mutable_data_ptr<std::int64_t>() = static_cast<std::int64_t>(text.size());
  group.send(size, to);
  auto bytes = at::empty({static_cast<std::int64_t>(text.size())}, at::kByte);
  std::memcpy(bytes.mutable_data_ptr(), text.data(), text.size());
  group.send(bytes, to);
}

std::string receive_text(distributed::Group& group, int from) {
  auto size = at::empty({1}, at::kLong);
  group.recv(size, from);
  auto bytes = at::empty({*size.const_data_ptr<std::int64_t>()}, at::kByte);
  group.recv(bytes, from);
  return {static_cast<const char*>(bytes.const_data_ptr()), bytes.nbytes()};
}

/// Parts of one tensor, by their index; replicas are taken once.
using Parts = std::map<std::int64_t, Piece>;

NamedTensors join(const std::map<std::string, Parts>& by_name) {
  NamedTensors out;
  for (const auto& [name, parts] : by_name) {
    std::vector<at::Tensor> values;
    for (const auto& [index, piece] : parts) values.push_back(piece.value);
    const auto& first = parts.begin()->second;
    TORCH_INTERNAL_ASSERT(static_cast<std::int64_t>(parts.size()) == first.count, name, ": ",
                          parts.size(), " of ", first.count, " parts were gathered");
    out.emplace_back(
        name, first.count == 1 ? first.value.contiguous().clone() : at::cat(values, first.dim));
  }
  return out;
}

/// What the adapter's files hold.
std::vector<Trainable> all_tensors(const peft::LoraAdapter& adapter) {
  auto out = adapter.trainables();
  const auto buffers = adapter.buffers();
  out.insert(out.end(), buffers.begin(), buffers.end());
  return out;
}

}  // namespace

Placement placement_of(const Trainable& trainable) {
  return {.tensor_part = trainable.sharded_dim.has_value(),
          .expert_part = trainable.kind == Trainable::Kind::PerExpert};
}

std::vector<Trainable> ordered_trainables(const peft::LoraAdapter& adapter) {
  auto out = adapter.trainables();
  std::ranges::stable_sort(out, {}, [](const Trainable& trainable) {
    const auto placement = placement_of(trainable);
    return (placement.expert_part ? 2 : 0) + (placement.tensor_part ? 1 : 0);
  });
  return out;
}

NamedTensors gather_whole(const std::vector<Trainable>& trainables,
                          const std::vector<at::Tensor>& values, distributed::Group& world,
                          const distributed::Mesh& mesh) {
  const at::NoGradGuard no_grad;
  auto own = pieces(trainables, values);
  for (auto& piece : own) piece.value = piece.value.cpu();
  std::map<std::string, Parts> by_name;
  const auto take = [&](const std::vector<Piece>& some) {
    for (const auto& piece : some) by_name[piece.name].emplace(piece.index, piece);
  };
  if (world.rank() != 0) {
    // Replicas hold the same.
    if (mesh.place.dp == 0) send_text(pack(own), world, 0);
    return {};
  }
  take(own);
  for (int rank = 1; rank < world.size(); ++rank)
    if (distributed::place_of(mesh.sizes, rank).dp == 0) take(unpack(receive_text(world, rank)));
  return join(by_name);
}

peft::AdapterFiles gather_adapter(const peft::LoraAdapter& adapter, const std::string& base_model,
                                  distributed::Group& world, const distributed::Mesh& mesh) {
  const auto trainables = all_tensors(adapter);
  peft::AdapterFiles files{.config = adapter.config(), .base_model_name_or_path = base_model};
  std::set<std::string> adapted;
  for (auto& [name, value] : gather_whole(trainables, values_of(trainables), world, mesh)) {
    const auto factor = name.rfind(".lora_");
    if (factor == std::string::npos) {
      files.saved.emplace(kPrefix + name, std::move(value));
      continue;
    }
    adapted.insert(name.substr(0, factor));
    files.factors.emplace(kPrefix + name, std::move(value));
  }
  if (world.rank() != 0) return files;
  files.listed_targets =
      peft::explicit_targets({adapted.begin(), adapted.end()}, adapter.module_paths());
  return files;
}

void scatter_adapter(const peft::AdapterFiles& files, const peft::LoraAdapter& adapter) {
  NamedTensors whole;
  for (const auto& [key, value] : files.factors) whole.emplace_back(name_of(key), value);
  for (const auto& [key, value] : files.saved) whole.emplace_back(name_of(key), value);
  const auto trainables = all_tensors(adapter);
  scatter_whole(whole, trainables, values_of(trainables), files.file);
}

void scatter_whole(const NamedTensors& whole, const std::vector<Trainable>& trainables,
                   const std::vector<at::Tensor>& values, const std::string& file) {
  const at::NoGradGuard no_grad;
  const std::map<std::string, at::Tensor> by_name(whole.begin(), whole.end());
  for (auto& piece : pieces(trainables, values)) {
    const auto found = by_name.find(piece.name);
    if (found == by_name.end())
      throw models::FileError(file + ": tensor " + piece.name + " is missing");
    auto shape = piece.value.sizes().vec();
    shape[static_cast<std::size_t>(piece.dim)] *= piece.count;
    if (found->second.sizes() != shape)
      throw models::FileError(file + ": tensor " + piece.name + ": expected shape " +
                              models::shape_text(shape) + ", found " +
                              models::shape_text(found->second.sizes()));
    const auto length = piece.value.size(piece.dim);
    piece.value.copy_(found->second.narrow(piece.dim, piece.index * length, length));
  }
}

}  // namespace tailor::trainer
