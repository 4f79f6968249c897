// The only file that knows libcurl.
#include <curl/curl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>
#include <utility>

#include "configs/reader.hpp"
#include "trainer/rewards/exchange.hpp"
#include "trainer/rewards/external.hpp"

namespace tailor::trainer {
namespace {

using configs::ConfigError;

constexpr std::size_t kMaxAnswerBytes = 16 << 20;
constexpr int kMaxUnreached = 3;  // requests in a row; then the server is not asked in this call

struct HandleDeleter {
  void operator()(CURL* handle) const { curl_easy_cleanup(handle); }
};
using Handle = std::unique_ptr<CURL, HandleDeleter>;

struct ListDeleter {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};

struct Response {
  std::string body;
  std::string fault;
  bool unreached = false;  // no answer at all
  bool timed_out = false;
};

std::size_t append(char* data, std::size_t size, std::size_t count, void* into) {
  auto& body = *static_cast<std::string*>(into);
  if (body.size() + size * count > kMaxAnswerBytes) return 0;  // ends the transfer
  body.append(data, size * count);
  return size * count;
}

/// Called now and then, and at least once a second; other than 0 ends the transfer.
int ends_transfer(void* cancelled, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return *static_cast<const std::atomic<bool>*>(cancelled) ? 1 : 0;
}

/// "Couldn't connect to server: Failed to connect to host port 1: ... (Connection refused)"
std::string explained(CURL* handle, CURLcode code, const char* details) {
  std::string text = curl_easy_strerror(code);
  if (*details != '\0') text += std::string(": ") + details;
  long error = 0;
  if (code == CURLE_COULDNT_CONNECT &&
      curl_easy_getinfo(handle, CURLINFO_OS_ERRNO, &error) == CURLE_OK && error != 0)
    text += std::string(" (") + std::strerror(static_cast<int>(error)) + ')';
  return text;
}

/// One connection to the server, kept between requests.
class Connection {
 public:
  Connection(const RewardConfig& config, const std::atomic<bool>& cancelled)
      : timeout_s_(config.timeout_s), handle_(curl_easy_init()) {
    headers_.reset(curl_slist_append(nullptr, "Content-Type: application/json"));
    // Without it libcurl asks for leave before a large body, and waits.
    headers_.reset(curl_slist_append(headers_.release(), "Expect:"));
    auto* handle = handle_.get();
    curl_easy_setopt(handle, CURLOPT_URL, config.url.c_str());
    curl_easy_setopt(handle, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(handle, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(handle, CURLOPT_XFERINFOFUNCTION, ends_transfer);
    curl_easy_setopt(handle, CURLOPT_XFERINFODATA, &cancelled);
    curl_easy_setopt(handle, CURLOPT_ERRORBUFFER, details_);
    curl_easy_setopt(handle, CURLOPT_HTTPHEADER, headers_.get());
    const auto limit_ms = static_cast<long>(std::max(1.0, timeout_s_ * 1000));
    curl_easy_setopt(handle, CURLOPT_TIMEOUT_MS, limit_ms);
  }

  /// Why no connection can be made, or "".
  std::string problem() {
    curl_easy_setopt(handle_.get(), CURLOPT_CONNECT_ONLY, 1L);
    details_[0] = '\0';
    const auto code = curl_easy_perform(handle_.get());
    curl_easy_setopt(handle_.get(), CURLOPT_CONNECT_ONLY, 0L);
    return code == CURLE_OK ? "" : explained(handle_.get(), code, details_);
  }

  /// A request that does not come through is repeated once, unless its time is over.
  Response post(const std::string& body) {
    auto response = post_once(body);
    if (!response.unreached || response.timed_out) return response;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    return post_once(body);
  }

 private:
  Response post_once(const std::string& body) {
    auto* handle = handle_.get();
    Response out;
    curl_easy_setopt(handle, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
    curl_easy_setopt(handle, CURLOPT_POSTFIELDS, body.c_str());
    curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, append);
    curl_easy_setopt(handle, CURLOPT_WRITEDATA, &out.body);
    details_[0] = '\0';
    const auto code = curl_easy_perform(handle);
    long status = 0;
    curl_easy_getinfo(handle, CURLINFO_RESPONSE_CODE, &status);
    if (code == CURLE_WRITE_ERROR) {
      out.fault = "answered more than " + std::to_string(kMaxAnswerBytes >> 20) + " MiB";
    } else if (code != CURLE_OK) {
      out.unreached = true;
      out.timed_out = code == CURLE_OPERATION_TIMEDOUT;
      out.fault = out.timed_out ? "timed out after " + configs::number_text(timeout_s_) + " s"
                                : explained(handle, code, details_);
    } else if (status < 200 || status > 299) {
      out.fault = "answered HTTP " + std::to_string(status) + ": " + excerpt(out.body);
    }
    return out;
  }

  double timeout_s_;
  Handle handle_;
  std::unique_ptr<curl_slist, ListDeleter> headers_;
  char details_[CURL_ERROR_SIZE] = {};
};

/// What is wrong with the text of a URL, or "".
std::string url_problem(const std::string& url) {
  constexpr auto kExpected = "expected a URL, as in http://host:8000/score";
  const std::unique_ptr<CURLU, decltype(&curl_url_cleanup)> parts(curl_url(), curl_url_cleanup);
  if (curl_url_set(parts.get(), CURLUPART_URL, url.c_str(), CURLU_NON_SUPPORT_SCHEME) != CURLUE_OK)
    return kExpected;
  char* scheme = nullptr;
  curl_url_get(parts.get(), CURLUPART_SCHEME, &scheme, 0);
  const std::string word = scheme == nullptr ? "" : scheme;
  curl_free(scheme);
  return word == "http" || word == "https" ? "" : kExpected;
}

class UrlReward : public Reward {
 public:
  explicit UrlReward(RewardConfig config) : Reward(std::move(config)) {
    for (std::int64_t i = 0; i < this->config().workers; ++i)
      connections_.push_back(std::make_unique<Connection>(this->config(), cancelled()));
    if (const auto problem = connections_[0]->problem(); !problem.empty())
      throw ConfigError(this->config().place + ".url: " + this->config().url + ": " + problem);
  }

  Scores score(std::span<const Judged> samples) override {
    const auto workers = connections_.size();
    const auto share = (samples.size() + workers - 1) / workers;
    std::vector<Answer> answers(samples.size());
    std::vector<std::jthread> threads;
    for (std::size_t begin = 0; begin < samples.size(); begin += share) {
      std::vector<std::size_t> indices(std::min(share, samples.size() - begin));
      std::iota(indices.begin(), indices.end(), begin);
      threads.emplace_back([&, indices, connection = connections_[begin / share].get()] {
        ask(*connection, samples, indices, answers);
      });
    }
    threads.clear();
    if (cancelled()) throw ScoringCancelled();
    Scores scores;
    scores.values.resize(samples.size());
    for (std::size_t i = 0; i < answers.size(); ++i) {
      scores.values[i] = answers[i].value;
      if (!answers[i].fault.empty())
        scores.faults.push_back({.index = i, .reason = answers[i].fault});
    }
    return scores;
  }

 private:
  /// All at once, or one by one where that fails.
  static void ask(Connection& connection, std::span<const Judged> samples,
                  const std::vector<std::size_t>& indices, std::vector<Answer>& answers) {
    auto batch = ask_batch(connection, samples, indices);
    if (batch.first.fault.empty() || indices.size() == 1) {
      settle(std::move(batch.first), indices, answers);
      return;
    }
    int unreached = 0;
    for (const auto index : indices) {
      if (unreached >= kMaxUnreached) {
        answers[index].fault = batch.first.fault;
        continue;
      }
      batch = ask_batch(connection, samples, {index});
      unreached = batch.second ? unreached + 1 : 0;
      settle(batch.first, {index}, answers);
    }
  }

  static std::pair<BatchAnswer, bool> ask_batch(Connection& connection,
                                                std::span<const Judged> samples,
                                                const std::vector<std::size_t>& indices) {
    const auto response = connection.post(batch_request(samples, indices));
    if (!response.fault.empty())
      return {{.answers = {}, .fault = response.fault}, response.unreached};
    return {read_batch_answer(response.body, indices.size()), false};
  }

  static void settle(BatchAnswer batch, const std::vector<std::size_t>& indices,
                     std::vector<Answer>& answers) {
    for (std::size_t i = 0; i < indices.size(); ++i)
      answers[indices[i]] = batch.fault.empty() ? std::move(batch.answers[i])
                                                : Answer{.value = {}, .fault = batch.fault};
  }

  std::vector<std::unique_ptr<Connection>> connections_;
};

}  // namespace

std::unique_ptr<Reward> make_url_reward(const RewardConfig& config) {
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  if (const auto problem = url_problem(config.url); !problem.empty())
    throw ConfigError(config.place + ".url: " + problem + ", found \"" + config.url + '"');
  return std::make_unique<UrlReward>(config);
}

}  // namespace tailor::trainer
