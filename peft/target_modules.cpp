#include "peft/target_modules.hpp"

#include <algorithm>
#include <cctype>
#include <functional>
#include <iterator>
#include <regex>
#include <set>
#include <utility>

namespace tailor::peft {
namespace {

using Matches = std::function<bool(const std::string& path)>;

[[noreturn]] void refuse(const std::string& place, const std::string& text) {
  throw configs::ConfigError(place + ": " + text);
}

Matches whole_path(const std::string& pattern, const std::string& place) {
  constexpr std::size_t kMaxLength = 1000;  // libstdc++ compiles nested groups by recursion
  if (pattern.size() > kMaxLength)
    refuse(place, "expected a regular expression of at most " + std::to_string(kMaxLength) +
                      " characters, found " + std::to_string(pattern.size()));
  try {
    return [expression = std::regex(pattern), pattern, place](const std::string& path) {
      try {
        return std::regex_match(path, expression);
      } catch (const std::regex_error&) {  // too deep or too costly, found while matching
        refuse(place,
               "the regular expression \"" + pattern + "\" is too complex for \"" + path + '"');
      }
    };
  } catch (const std::regex_error& error) {
    refuse(place,
           "expected a regular expression, found \"" + pattern + "\" (" + error.what() + ')');
  }
}

Matches any_name(std::vector<std::string> names) {
  return [names = std::move(names)](const std::string& path) {
    return std::ranges::any_of(names, [&](const auto& name) { return names_module(name, path); });
  };
}

bool is_all_linear(const LoraConfig& config) {
  if (!config.target_is_pattern || config.target_modules.size() != 1) return false;
  auto word = config.target_modules.front();
  std::ranges::transform(word, word.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return word == "all-linear";
}

void check_names(const std::vector<std::string>& names, const std::vector<std::string>& paths,
                 const std::string& head, const std::string& place) {
  for (const auto& name : names) {
    if (name == head)
      refuse(place, "the output head \"" + head + "\" cannot be adapted; leave it out");
    if (std::ranges::any_of(paths, [&](const auto& path) { return names_module(name, path); }))
      continue;
    std::set<std::string> known;  // full paths for a path, last segments for a name
    for (const auto& path : paths)
      if (path != head)
        known.insert(name.find('.') == std::string::npos ? module_class(path) : path);
    const auto near = configs::nearest(name, {known.begin(), known.end()});
    refuse(place, "no linear layer of the model is named \"" + name + '"' +
                      (near.empty() ? std::string() : "; did you mean \"" + near + "\"?"));
  }
}

}  // namespace

bool names_module(const std::string& name, const std::string& path) {
  if (name.empty() || name.size() > path.size() || !path.ends_with(name)) return false;
  return name.size() == path.size() || path[path.size() - name.size() - 1] == '.';
}

std::string module_class(const std::string& path) {
  const auto dot = path.rfind('.');
  return dot == std::string::npos ? path : path.substr(dot + 1);
}

std::string place_of_key(const LoraConfig& config, std::string place, const std::string& key) {
  if (const auto known = config.places.find(key); known != config.places.end())
    return known->second;
  const std::string targets = "target_modules";
  const auto found = place.rfind(targets);
  if (found == std::string::npos) return place + " (" + key + ')';
  return place.replace(found, targets.size(), key);
}

std::vector<std::size_t> match_targets(const LoraConfig& config,
                                       const std::vector<std::string>& paths,
                                       const std::string& head, const std::string& place) {
  const bool all = is_all_linear(config);
  const auto& targets = config.target_modules;
  Matches targeted = [&](const std::string& path) {
    return path != head && module_class(path) != "shared_expert_gate";  // of one output
  };
  if (!all && config.target_is_pattern) {
    if (targets.size() != 1) refuse(place, "expected one regular expression or a list of names");
    targeted = whole_path(targets.front(), place);
  } else if (!all) {
    check_names(targets, paths, head, place);
    targeted = any_name(targets);
  }
  Matches excluded = any_name(config.exclude_modules);
  if (config.exclude_is_pattern && !config.exclude_modules.empty())
    excluded =
        whole_path(config.exclude_modules.front(), place_of_key(config, place, "exclude_modules"));

  std::vector<std::size_t> chosen;
  bool any_target = false;
  for (std::size_t i = 0; i < paths.size(); ++i) {
    if (!targeted(paths[i])) continue;
    any_target = true;
    if (excluded(paths[i])) continue;
    if (paths[i] == head)
      refuse(place, "\"" + targets.front() + "\" matches the output head \"" + head +
                        "\", which cannot be adapted; name it in exclude_modules");
    chosen.push_back(i);
  }
  if (!any_target) {
    const auto example = paths.empty() ? std::string() : "; a path is \"" + paths.front() + '"';
    refuse(place, targets.empty() ? "expected the layers to adapt, found an empty list"
                                  : "the regular expression \"" + targets.front() +
                                        "\" matches no linear layer of the model" + example);
  }
  if (chosen.empty())
    refuse(place_of_key(config, place, "exclude_modules"), "excludes every targeted layer");
  return chosen;
}

void check_all_used(const LoraConfig& config, const std::vector<std::string>& paths,
                    const std::vector<std::string>& others, const std::string& place) {
  if (config.places.empty()) return;
  const auto expect_any = [&](const std::string& key, const std::string& text,
                              const auto& matches) {
    const bool other = key == "exclude_modules" && std::ranges::any_of(others, matches);
    if (!other && std::ranges::none_of(paths, matches))
      refuse(place_of_key(config, place, key),
             '"' + text + "\" matches no linear layer of the model; a path is \"" + paths.front() +
                 '"');
  };
  for (const auto& name : config.exclude_modules) {
    const auto matches = config.exclude_is_pattern
                             ? whole_path(name, place_of_key(config, place, "exclude_modules"))
                             : any_name({name});
    expect_any("exclude_modules", name, matches);
  }
  for (const auto& [key, pattern] : {std::pair("rank_pattern", &config.rank_pattern),
                                     std::pair("alpha_pattern", &config.alpha_pattern)})
    for (const auto& rule : *pattern) {
      LoraConfig alone;  // whose ranks are decided by this rule, or by none
      alone.rank_pattern = {rule};
      expect_any(key, rule.first, [&](const std::string& path) {
        return std::string(alone.rank_key(path)) == "rank_pattern";
      });
    }
}

std::vector<std::string> explicit_targets(const std::vector<std::string>& adapted,
                                          const std::vector<std::string>& paths) {
  const std::set<std::string> wanted(adapted.begin(), adapted.end());
  std::set<std::string> ambiguous;  // classes with a member that is not adapted
  for (const auto& path : paths)
    if (!wanted.contains(path)) ambiguous.insert(module_class(path));
  std::set<std::string> names;
  for (const auto& path : adapted) {
    auto name = module_class(path);
    names.insert(ambiguous.contains(name) ? path : std::move(name));
  }
  return {names.begin(), names.end()};
}

}  // namespace tailor::peft
