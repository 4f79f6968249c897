#pragma once

#include <map>
#include <string>
#include <vector>

#include "trainer/run_config.hpp"

namespace tailor::trainer {

/// What a run that goes on would do otherwise than it began; one line a key, with both values.
struct ResumeDifferences {
  std::vector<std::string> refused;  // the rest of the run would not be the run that was begun
  std::vector<std::string> noted;    // harmless, or wanted: a longer run, another place
};

/// Compares the configuration that a run was begun with and the one it is to go on with. Paths may
/// differ, a fingerprint tells whether the content does: see compare_fingerprints().
ResumeDifferences compare_configs(const RunConfig& begun, const RunConfig& now);

/// Names of what is not the same any more: the data, the model, what multiplies.
std::vector<std::string> compare_fingerprints(const std::map<std::string, std::string>& begun,
                                              const std::map<std::string, std::string>& now);

/// A line about the fingerprint `name`, which is not the same any more. Both values are told where
/// they are words, as those of "precision" are, and not where they are checksums.
std::string describe_change(const std::string& name,
                            const std::map<std::string, std::string>& begun,
                            const std::map<std::string, std::string>& now);

}  // namespace tailor::trainer
