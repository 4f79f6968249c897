// Any bytes as a job file and as a JSON document: the answer is a configuration or a ConfigError.
#include <cstddef>
#include <cstdint>
#include <string>

#include "configs/reader.hpp"
#include "trainer/run_config.hpp"

namespace {

using tailor::configs::ConfigError;
using tailor::configs::Document;
using tailor::configs::Section;

/// Reads every key of a section in every way.
void read_all(Section section) {
  for (const auto& key : section.keys()) {
    section.integer(key, 1, 0, 10);
    section.number(key, 1.0, {.min = 0.0});
    section.boolean(key, false);
    section.text(key, "");
    section.choice(key, {"true", "sft"}, "sft");
    section.choices(key, {"jsonl"}, {});
    section.names(key, false);
    section.integers(key);
    section.numbers(key);
    section.is_empty(key);
    section.place(key);
    for (const auto& item : section.sections(key)) read_all(item);
    read_all(section.section(key));
  }
  section.finish();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  // The first line may be an assignment of --set.
  const auto line = text.substr(0, text.find('\n'));
  try {
    const auto config = tailor::trainer::parse_run_config(text, "/nowhere/job.yaml", {line});
    tailor::trainer::to_yaml(config);
  } catch (const ConfigError&) {
  }
  try {
    const auto document = Document::yaml(text, "job.yaml");
    read_all(document.root());
    document.check();
  } catch (const ConfigError&) {
  }
  try {
    const auto document = Document::json(text, "config.json");
    read_all(document.root());
    document.check();
  } catch (const ConfigError&) {
  }
  return 0;
}
