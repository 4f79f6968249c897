#include "trainer/checkpoint/state_file.hpp"

#include <algorithm>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "models/files/file_error.hpp"
#include "trainer/checkpoint/checksum.hpp"

namespace tailor::trainer {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using models::FileError;

constexpr std::int64_t kFormat = 3;

std::string checksum_of(Json document) {
  document.erase("checksum");
  Checksum sum;
  sum.add(document.dump());
  return sum.hex();
}

/// Members of an object, each of the right kind; FileError names the file and the key.
class Reader {
 public:
  Reader(const Json& object, std::string file) : object_(object), file_(std::move(file)) {
    if (!object_.is_object()) throw FileError(file_ + ": expected a JSON object");
  }
  std::int64_t count(const char* key) const {
    const auto& value = at(key);
    constexpr auto kMost = std::uint64_t{std::numeric_limits<std::int64_t>::max()};
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > kMost)
      throw FileError(file_ + ": " + key + ": expected a count, found " + value.dump());
    return value.get<std::int64_t>();
  }
  /// Of what files of an earlier program do not have yet.
  std::int64_t count_or(const char* key, std::int64_t otherwise) const {
    return object_.contains(key) ? count(key) : otherwise;
  }
  bool flag(const char* key) const {
    const auto& value = at(key);
    if (!value.is_boolean())
      throw FileError(file_ + ": " + key + ": expected true or false, found " + value.dump());
    return value.get<bool>();
  }
  std::string text(const char* key) const { return text_of(at(key), key); }
  Reader object(const char* key) const { return {at(key), file_ + ": " + key}; }
  std::map<std::string, std::string> texts(const char* key) const {
    std::map<std::string, std::string> out;
    for (const auto& [name, value] : object(key).object_.items()) out[name] = text_of(value, name);
    return out;
  }
  std::vector<std::string> keys() const {
    std::vector<std::string> out;
    for (const auto& [name, value] : object_.items()) out.push_back(name);
    return out;
  }

 private:
  const Json& at(const char* key) const {
    if (!object_.contains(key)) throw FileError(file_ + ": " + key + " is missing");
    return object_[key];
  }
  std::string text_of(const Json& value, const std::string& key) const {
    if (!value.is_string())
      throw FileError(file_ + ": " + key + ": expected a string, found " + value.dump());
    return value.get<std::string>();
  }

  const Json& object_;
  std::string file_;
};

void check_files(const Reader& files, const fs::path& folder) {
  for (const auto& name : files.keys()) {
    const auto file = folder / name;
    const auto entry = files.object(name.c_str());
    std::error_code error;
    const auto found = fs::file_size(file, error);
    if (error) throw FileError(file.string() + ": " + error.message());
    const auto bytes = static_cast<std::uintmax_t>(entry.count("bytes"));
    if (found != bytes)
      throw FileError(file.string() + ": expected " + std::to_string(bytes) + " bytes, found " +
                      std::to_string(found));
    if (file_checksum(file) != entry.text("checksum"))
      throw FileError(file.string() + ": its checksum is not the one that was saved");
  }
}

}  // namespace

std::string state_json(const TrainState& state, const fs::path& folder) {
  Json files = Json::object();
  std::vector<fs::path> others;
  for (const auto& entry : fs::directory_iterator(folder)) others.push_back(entry.path());
  std::ranges::sort(others);  // a directory has no order of its own
  for (const auto& file : others)
    files[file.filename().string()] = {{"bytes", fs::file_size(file)},
                                       {"checksum", file_checksum(file)}};
  Json out = {{"format", kFormat},
              {"step", state.step},
              {"evaluation_due", state.evaluation_due},
              {"data", {{"epoch", state.data.epoch}, {"row", state.data.row}}},
              {"num_tokens", state.num_tokens},
              {"guards",
               {{"above_max_loss", state.guards.above_max_loss},
                {"moving_steps", state.guards.moving_steps},
                {"without_spread", state.guards.without_spread},
                {"above_kl_limit", state.guards.above_kl_limit},
                {"batches_rewarded", state.guards.batches_rewarded}}},
              {"num_rollouts", state.num_rollouts},
              {"num_updates", state.num_updates},
              {"fingerprints", state.fingerprints},
              {"files", files}};
  out["checksum"] = checksum_of(out);
  return out.dump(2) + "\n";
}

TrainState read_state(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw FileError(file.string() + ": cannot be read");
  const auto document = Json::parse(in, nullptr, /*allow_exceptions=*/false);
  if (document.is_discarded()) throw FileError(file.string() + ": no JSON, or cut off");
  const Reader top(document, file.string());
  if (top.text("checksum") != checksum_of(document))
    throw FileError(file.string() + ": its checksum does not fit its content");
  if (top.count("format") != kFormat)
    throw FileError(file.string() + ": format: expected " + std::to_string(kFormat) + ", found " +
                    std::to_string(top.count("format")));
  check_files(top.object("files"), file.parent_path());
  const auto data = top.object("data"), guards = top.object("guards");
  TrainState state;
  state.step = top.count("step");
  state.evaluation_due = top.flag("evaluation_due");
  state.data = {.epoch = data.count("epoch"), .row = data.count("row")};
  state.num_tokens = top.count("num_tokens");
  state.guards = {.above_max_loss = guards.count("above_max_loss"),
                  .moving_steps = guards.count("moving_steps"),
                  .without_spread = guards.count("without_spread"),
                  .above_kl_limit = guards.count_or("above_kl_limit", 0),
                  // One that does not tell is not held against the run.
                  .batches_rewarded = guards.count_or("batches_rewarded", 1)};
  state.num_rollouts = top.count("num_rollouts");
  state.num_updates = top.count("num_updates");
  state.fingerprints = top.texts("fingerprints");
  return state;
}

bool same_numbers(const TrainState& a, const TrainState& b) {
  return a.step == b.step && a.evaluation_due == b.evaluation_due && a.data.epoch == b.data.epoch &&
         a.data.row == b.data.row && a.num_tokens == b.num_tokens &&
         a.num_rollouts == b.num_rollouts && a.guards == b.guards &&
         a.num_updates == b.num_updates && a.fingerprints == b.fingerprints;
}

}  // namespace tailor::trainer
