#pragma once

#include <map>
#include <string>

#include "models/files/pretrained.hpp"
#include "trainer/cli/session.hpp"
#include "trainer/data/dataset.hpp"

namespace tailor::trainer::cli {

/// What a run is made from, by name, for a later resumption. These three decide whether it can go
/// on at all, the others ("eval data", "precision", "layout") whether it goes on bit for bit.
constexpr const char* kModelFingerprint = "model";
constexpr const char* kDataFingerprint = "train data";
constexpr const char* kStepFingerprint = "rows of a step";  // over all ranks
constexpr const char* kLayoutFingerprint = "layout";
std::map<std::string, std::string> fingerprints(const models::Pretrained& pretrained,
                                                const Dataset& train, const Dataset& eval,
                                                const Precision& precision,
                                                std::int64_t rows_in_step,
                                                const std::string& layout);

}  // namespace tailor::trainer::cli
