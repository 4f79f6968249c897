#pragma once

#include <string>
#include <vector>

#include "distributed/mesh.hpp"
#include "peft/adapter_file.hpp"
#include "peft/lora.hpp"
#include "trainer/checkpoint/train_state.hpp"

namespace tailor::trainer {

/// How a trainable tensor lies on the ranks of a job.
struct Placement {
  bool tensor_part = false;  // every tp rank holds its own part; else all hold it, and the gradient
                             // that each computes is a part of a sum (see models/layers/region.hpp)
  bool expert_part = false;  // every ep rank holds those of its own experts

  bool operator==(const Placement&) const = default;
};
Placement placement_of(const peft::Trainable& trainable);

/// The adapter's tensors, those of one placement together: the order of the flat tensors.
std::vector<peft::Trainable> ordered_trainables(const peft::LoraAdapter& adapter);

/// Names and values of tensors that lie on the ranks as `trainables` do, values or moments of them,
/// as checkpoints hold them: whatever the layout, one whole tensor a module,
/// "<path>.lora_A.weight". Collective over the ranks of one job; the answer is rank 0's, empty
/// elsewhere. Factors that experts share are answered once for each.
NamedTensors gather_whole(const std::vector<peft::Trainable>& trainables,
                          const std::vector<at::Tensor>& values, distributed::Group& world,
                          const distributed::Mesh& mesh);

/// The way back: copies this rank's part of the named whole tensors into `values`. Throws
/// models::FileError, naming `file`, for one that is missing or has another shape.
void scatter_whole(const NamedTensors& whole, const std::vector<peft::Trainable>& trainables,
                   const std::vector<at::Tensor>& values, const std::string& file);

/// The same of an adapter's factors and routers, as its files hold them. gather_adapter() is
/// collective, and rank 0's answer counts.
peft::AdapterFiles gather_adapter(const peft::LoraAdapter& adapter, const std::string& base_model,
                                  distributed::Group& world, const distributed::Mesh& mesh);
void scatter_adapter(const peft::AdapterFiles& files, const peft::LoraAdapter& adapter);

}  // namespace tailor::trainer
