#pragma once

#include <string>

#include "models/files/upcycle.hpp"

namespace tailor::models {

/// The sparse family that a dense one becomes, and what it calls its parts.
struct SparseFamily {
  std::string model_type, architecture;
  std::string block;  // below "model.layers.0."
  std::string gate_proj, up_proj, down_proj;
  bool shared_expert = false;
};

/// What upcycled() needs to know of both configurations.
struct UpcyclePlan {
  SparseFamily family;
  std::int64_t num_layers, hidden_size, intermediate_size;  // of the dense model
  std::string config_json;                                  // of the sparse model
};

/// Throws as upcycled() does.
UpcyclePlan plan_upcycle(const std::string& config_json, const std::string& config_file,
                         const UpcycleOptions& options);

}  // namespace tailor::models
