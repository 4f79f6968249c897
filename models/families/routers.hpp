#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/families/causal_lm.hpp"
#include "models/layers/moe.hpp"

namespace tailor::models {

/// The router of a sparse layer.
struct NamedRouter {
  std::string name;  // of its keys' parent: "model.layers.0.mlp.gate"
  MoeBlock* block;

  Router& router() const { return block->gate(); }
  const RouterConfig& config() const { return block->config().router; }
};

/// Of the layers held here, in their order; none where the model is dense.
std::vector<NamedRouter> routers(CausalLM& model);

}  // namespace tailor::models
