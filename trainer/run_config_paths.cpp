#include "trainer/run_config_paths.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>
#include <vector>

namespace tailor::trainer {
namespace {

namespace fs = std::filesystem;

/// The entry of its folder whose name is nearest to `path`'s, for a slip of the pen.
std::string suggestion(const fs::path& path) {
  constexpr std::size_t kMaxEntries = 1000;
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(path.parent_path(), error), end;
       !error && entry != end && names.size() < kMaxEntries; entry.increment(error))
    names.push_back(entry->path().filename().string());
  const auto near = configs::nearest(path.filename().string(), names);
  return near.empty() ? "" : "; did you mean \"" + near + "\"?";
}

/// Why nothing can be read at `path`, or "". `what` is what should be there.
std::string unreadable(const fs::path& path, const std::string& what) {
  std::error_code error;
  const auto status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) {
    const auto parent = path.parent_path();
    if (!parent.empty() && !fs::exists(parent, error))
      return "no such " + what + ": " + path.string() + " (there is no folder " + parent.string() +
             ')';
    return "no such " + what + ": " + path.string() + suggestion(path);
  }
  if (error) return "cannot be opened: " + path.string() + " (" + error.message() + ')';
  if (::access(path.c_str(), R_OK) != 0)
    return "cannot be read: " + path.string() + " (" + std::strerror(errno) + ')';
  return "";
}

std::string folder_problem(const fs::path& folder, const std::string& must_hold) {
  std::error_code error;
  if (fs::exists(folder / must_hold, error)) return "";
  return "the folder has no " + must_hold + ": " + folder.string();
}

}  // namespace

std::string file_problem(const fs::path& file) {
  std::error_code error;
  if (auto problem = unreadable(file, "file"); !problem.empty()) return problem;
  if (fs::is_directory(file, error)) return "expected a file, found a folder: " + file.string();
  // A pipe has no size.
  if (fs::is_regular_file(file, error) && fs::file_size(file, error) == 0)
    return "the file is empty: " + file.string();
  return "";
}

std::string model_problem(const fs::path& model) {
  std::error_code error;
  if (fs::is_directory(model, error)) return folder_problem(model, "config.json");
  if (fs::exists(model, error)) return file_problem(model);
  return unreadable(model, "file or folder") +
         " (a model is a Hugging Face folder or a GGUF file on this machine)";
}

std::string adapter_problem(const fs::path& adapter) {
  std::error_code error;
  if (auto problem = unreadable(adapter, "folder"); !problem.empty()) return problem;
  if (!fs::is_directory(adapter, error))
    return "expected an adapter's folder, found a file: " + adapter.string();
  return folder_problem(adapter, "adapter_config.json");
}

std::string output_problem(const fs::path& folder) {
  std::error_code error;
  const auto status = fs::status(folder, error);
  if (status.type() == fs::file_type::not_found || fs::is_directory(status)) return "";
  if (error && !fs::exists(status))
    return "cannot be opened: " + folder.string() + " (" + error.message() + ')';
  return "expected a folder, found a file: " + folder.string();
}

fs::path read_path(configs::Section& section, const std::string& key, const PathBase& base,
                   std::string (*problem_of)(const fs::path&), bool optional) {
  const auto text = optional && !section.has(key) ? std::string() : section.text(key);
  if (!section.has(key)) {
    section.ignore(key);
    return {};
  }
  if (section.failed(key)) return {};
  if (text.empty() || text.find('\0') != std::string::npos) {
    section.reject(key, "expected a path");
    return {};
  }
  const auto path = (base.folder / text).lexically_normal();
  if (base.paths == Paths::AsWritten) return path;
  if (const auto problem = problem_of(path); !problem.empty()) section.report(key, problem);
  return path;
}

}  // namespace tailor::trainer
