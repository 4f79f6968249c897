#pragma once

#include <map>
#include <string>

#include "models/files/pretrained.hpp"
#include "trainer/cli/job_task.hpp"
#include "trainer/cli/session.hpp"

namespace tailor::trainer::cli {

/// What a run is made from, by name, for a later resumption. These three decide whether it can go
/// on at all, the others ("eval data", "precision", "layout") whether it goes on bit for bit.
constexpr const char* kModelFingerprint = "model";
constexpr const char* kDataFingerprint = "train data";
constexpr const char* kStepFingerprint = "rows of a step";  // over all ranks
constexpr const char* kLayoutFingerprint = "layout";
std::map<std::string, std::string> fingerprints(const models::Pretrained& pretrained,
                                                const JobTask& task, const Precision& precision,
                                                const std::string& layout);

}  // namespace tailor::trainer::cli
