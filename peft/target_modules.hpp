#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "peft/lora_config.hpp"

namespace tailor::peft {

/// Does `name` of a list of module names mean the module at `path`: equal, or a suffix behind a
/// dot.
bool names_module(const std::string& name, const std::string& path);

/// The last segment of a path: "q_proj".
std::string module_class(const std::string& path);

/// The place of `key`: the configuration's own, or that of target_modules, `place`, with the key's
/// name ("adapter_config.json: target_modules" becomes "adapter_config.json: r").
std::string place_of_key(const LoraConfig& config, std::string place, const std::string& key);

/// Positions in `paths` (the model's linear layers, `head` among them where it is one) that the
/// configuration targets, in order. Rules of HF PEFT: exclusions first; a list by names_module();
/// one string is a regular expression (ECMAScript) for the whole path; "all-linear", in any case of
/// letters, is every layer but the head and a shared expert's gate. Throws ConfigError naming
/// `place` for an invalid expression, a name of the list that no layer has (with the nearest), the
/// head as a target, and where nothing is left.
std::vector<std::size_t> match_targets(const LoraConfig& config,
                                       const std::vector<std::string>& paths,
                                       const std::string& head, const std::string& place);

/// Refuses what a job file says of layers that are not there: a name or expression of
/// exclude_modules, rank_pattern or alpha_pattern that matches none of `paths`, all linear layers
/// of the model, nor, to be excluded, of its `others`. An adapter's file may say more than it
/// needs. Throws ConfigError naming the key's place.
void check_all_used(const LoraConfig& config, const std::vector<std::string>& paths,
                    const std::vector<std::string>& others, const std::string& place);

/// The shortest list of names that means exactly the modules `adapted` among `paths`: last
/// segments, full paths where a last segment means others too. Sorted, each once.
std::vector<std::string> explicit_targets(const std::vector<std::string>& adapted,
                                          const std::vector<std::string>& paths);

}  // namespace tailor::peft
