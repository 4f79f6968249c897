#pragma once

#include <map>
#include <string>

#include "models/files/pretrained.hpp"
#include "trainer/cli/session.hpp"
#include "trainer/data/dataset.hpp"

namespace tailor::trainer::cli {

/// What a run is made from, by name, for a later resumption. These two decide whether it can go on
/// at all, the others ("eval data", "precision") whether it goes on bit for bit.
constexpr const char* kModelFingerprint = "model";
constexpr const char* kDataFingerprint = "train data";
std::map<std::string, std::string> fingerprints(const models::Pretrained& pretrained,
                                                const Dataset& train, const Dataset& eval,
                                                const Precision& precision);

}  // namespace tailor::trainer::cli
