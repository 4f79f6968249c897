#include "models/files/safetensors_writer.hpp"

#include <c10/util/Exception.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "models/files/safetensors.hpp"
#include "models/files/safetensors_dtype.hpp"

namespace tailor::models {
namespace {

std::uint64_t bytes_of(const SafetensorsWriter::Plan& plan) {
  std::uint64_t bytes = c10::elementSize(plan.dtype);
  for (const std::int64_t size : plan.shape) bytes *= static_cast<std::uint64_t>(size);
  return bytes;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& file,
                                     const std::vector<Plan>& plans,
                                     const std::map<std::string, std::string>& metadata)
    : file_(file) {
  std::vector<const Plan*> order;
  for (const Plan& plan : plans) order.push_back(&plan);
  std::stable_sort(order.begin(), order.end(), [](const Plan* a, const Plan* b) {
    return c10::elementSize(a->dtype) > c10::elementSize(b->dtype);
  });

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  for (const Plan* plan : order) {
    const std::string place = file.string() + ": tensor " + in_quotes(plan->name);
    const std::string_view word = dtype_word(plan->dtype);
    if (word.empty()) {
      throw FileError(place + ": safetensors has no dtype " + c10::toString(plan->dtype));
    }
    if (!places_.emplace(plan->name, Place{plan->dtype, plan->shape, offset}).second) {
      throw FileError(place + ": given twice");
    }
    const std::uint64_t end = offset + bytes_of(*plan);
    header[plan->name] = {{"dtype", word}, {"shape", plan->shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }

  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::type_error&) {
    throw FileError(file.string() + ": a tensor's name or the metadata is not UTF-8");
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::uint64_t size = text.size();
  file_.write(&size, sizeof size, 0);
  file_.write(text.data(), text.size(), sizeof size);
  for (auto& [name, place] : places_) place.begin += sizeof size + text.size();
}

void SafetensorsWriter::write(const std::string& name, const at::Tensor& tensor) {
  const auto found = places_.find(name);
  TORCH_CHECK_VALUE(found != places_.end(), "tensor ", name, " was not planned");
  Place& place = found->second;
  TORCH_CHECK_VALUE(tensor.scalar_type() == place.dtype && tensor.sizes() == place.shape, "tensor ",
                    name, " was planned as ", place.dtype, " ", at::IntArrayRef(place.shape),
                    ", not ", tensor.scalar_type(), " ", tensor.sizes());
  const at::Tensor contiguous = tensor.detach().to(at::kCPU).contiguous();
  file_.write(contiguous.const_data_ptr(), contiguous.nbytes(), place.begin);
  place.written = true;
}

void SafetensorsWriter::commit() {
  for (const auto& [name, place] : places_) {
    TORCH_CHECK_VALUE(place.written, "tensor ", name, " was planned and not written");
  }
  file_.commit();
}

void write_safetensors(const std::filesystem::path& file,
                       const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<SafetensorsWriter::Plan> plans;
  for (const auto& [name, tensor] : tensors) {
    plans.push_back({name, tensor.scalar_type(), tensor.sizes().vec()});
  }
  SafetensorsWriter writer(file, plans, metadata);
  for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
  writer.commit();
}

}  // namespace tailor::models
