#include "trainer/cli/errors.hpp"

#include <c10/util/Backtrace.h>
#include <c10/util/Exception.h>
#include <cxxabi.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <new>
#include <system_error>

#include "configs/reader.hpp"
#include "distributed/group.hpp"
#include "models/files/file_error.hpp"
#include "trainer/cli/ranks.hpp"
#include "trainer/sft/numeric_error.hpp"

namespace tailor::trainer::cli {
namespace {

constexpr const char* kOutOfMemory =
    "out of memory; a smaller data.max_length, batch or model needs less, and `tailor plan` "
    "estimates how much";

constexpr int kInternal = 1, kInput = 2, kNumbers = 3, kPeers = 4;

/// "cannot write FILE: No space left on device"
std::string with_hint(std::string text, const std::error_code& code) {
  if (code == std::errc::no_space_on_device || code == std::errc::file_too_large)
    text += "; what was saved before is untouched: make room and run the same command again";
  return text;
}

[[noreturn]] void print_and_end() {
  const auto error = std::current_exception();
  const auto failure = error ? explain(error) : Failure{kInternal, "ended without an error"};
  std::string trace;
  if (const auto* type = abi::__cxa_current_exception_type()) {
    int status = 0;
    char* name = abi::__cxa_demangle(type->name(), nullptr, nullptr, &status);
    trace = std::string("type: ") + (status == 0 ? name : type->name()) + '\n';
    std::free(name);
  }
  // Nothing has been unwound: the frames are those of the throw.
  trace += c10::get_backtrace(/*frames_to_skip=*/1);
  tell_and_end(failure, trace);
  _exit(failure.code);
}

bool wanted = false;

}  // namespace

Failure explain(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const configs::ConfigError& e) {
    return {kInput, e.what()};
  } catch (const models::FileError& e) {
    return {kInput, e.what()};
  } catch (const NumericError& e) {
    return {kNumbers, e.what()};
  } catch (const distributed::CommError& e) {
    return {kPeers, e.what()};
  } catch (const std::filesystem::filesystem_error& e) {  // whose own text names functions
    auto text = e.path1().string();
    if (!e.path2().empty()) text += " -> " + e.path2().string();
    if (!text.empty()) text += ": ";
    return {kInput, with_hint(text + e.code().message(), e.code())};
  } catch (const std::system_error& e) {
    return {kInput, with_hint(e.what(), e.code())};
  } catch (const c10::Error& e) {
    const std::string text = e.what_without_backtrace();
    if (text.find("DefaultCPUAllocator") != std::string::npos) return {kInput, kOutOfMemory};
    return {kInternal, "internal: " + text};
  } catch (const std::bad_alloc&) {
    return {kInput, kOutOfMemory};
  } catch (const std::exception& e) {
    return {kInternal, std::string("internal: ") + e.what()};
  } catch (...) {
    return {kInternal, "internal: an error of unknown type"};
  }
}

void print_stack_traces() {
  wanted = true;
  std::set_terminate(print_and_end);
}

bool stack_traces_wanted() { return wanted; }

}  // namespace tailor::trainer::cli
