#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "peft/lora_config.hpp"

namespace tailor::peft {

/// transformers 5 keeps a layer's experts as the parameters gate_up_proj (E, 2 F, H), gate first,
/// and down_proj (E, H, F). PEFT adapts them by `target_parameters`: of E experts and rank R,
/// lora_A (R E, in) has row e R + rho, lora_B (out, R E) has column rho E + e (PEFT >= 0.19.1).
/// Up to 0.19.0 the two were exchanged and ran the other way.
struct FusedPair {
  at::Tensor A, B;
};
/// Factors of all experts of a projection, (E, R, in) and (E, out, R).
struct ExpertPair {
  at::Tensor A_ERI, B_EOR;
};
FusedPair fuse(const ExpertPair& experts);
ExpertPair unfuse(const FusedPair& fused, std::int64_t num_experts);
/// The older layout as the natural one: exact, its own inverse up to who is input.
FusedPair natural_from_swapped(const FusedPair& old, std::int64_t num_experts);

/// What the files of a family call the sparse block of a layer and the projections of its experts.
struct ExpertNames {
  std::string block = "mlp";
  std::string gate_proj = "gate_proj", up_proj = "up_proj", down_proj = "down_proj";
};
ExpertNames expert_names(const std::string& model_type);

/// Factors by key with what decides their scale.
struct ExpertFactors {
  std::map<std::string, at::Tensor> factors;  // by PEFT's keys
  LoraConfig config;
  std::vector<std::string> target_parameters;
};

/// Keys "<experts>[.base_layer].lora_A.weight" become those of each expert's gate_proj, up_proj and
/// down_proj under the family's `names`; ranks and scales go into rank_pattern and alpha_pattern,
/// also those of linear layers among target_parameters, whose patterns mean "<path>.weight". gate
/// and up take the rank of gate_up_proj, or half of it where they have nothing in common. Which
/// tensor is which, and in which layout, is told by shapes; where one parameter alone is adapted,
/// by `peft_version`. Throws FileError naming `file`.
void unfuse_experts(ExpertFactors& adapter, const std::string& peft_version,
                    const std::string& file, const ExpertNames& names = {});

/// The reverse, for PEFT on transformers 5 to load: experts' keys (Mixtral's too, whose block
/// transformers 5 calls mlp) become fused ones. gate and up side by side have the sum of their
/// ranks, or one rank where they have one A. Other layers named gate_proj, up_proj or down_proj
/// become target_parameters too, since PEFT takes such names among target_modules for experts.
/// Throws FileError where only one of gate and up is adapted, and where experts of a layer are
/// missing or differ in rank.
void fuse_experts(ExpertFactors& adapter, const std::string& file);

}  // namespace tailor::peft
