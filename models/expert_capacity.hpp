#pragma once

namespace tailor::models {

/// A bound on the tokens that an expert computes, as in Switch (Fedus et al. 2021,
/// arXiv:2101.03961, eq. 3), counted in every document apart: what is dropped does not depend on
/// what a document is packed with nor on the rank that computes it. A token that all of its experts
/// dropped gets nothing from routed ones.
struct ExpertCapacity {
  double factor = 0.0;  // of the even share of a document's pairs; 0: every pair is computed
  enum class Drop { Probs, Position } drop = Drop::Probs;  // the smallest weights, or the last
};

}  // namespace tailor::models
