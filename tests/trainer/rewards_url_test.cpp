#include <catch2/catch.hpp>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "configs/reader.hpp"
#include "tests/trainer/rewards_children.hpp"
#include "trainer/rewards/child_process.hpp"

using namespace tailor::trainer;
using Catch::Matchers::Contains;
using tailor::configs::ConfigError;
using Values = std::vector<double>;

namespace {

/// Answers by the first completion that is the name of something wrong.
constexpr auto kServer = R"(
import http.server, json, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        texts = request["completions"]
        assert self.headers["Content-Type"] == "application/json"
        assert len(request["prompts"]) == len(texts) and len(request["level"]) == len(texts)
        status, body = 200, json.dumps({"rewards": [len(text) for text in texts]})
        if "hang" in texts:
            time.sleep(5)
        elif "drip" in texts:
            self.send_response(200)
            self.end_headers()
            for _ in range(50):
                self.wfile.write(b" ")
                time.sleep(0.1)
        elif "error" in texts:
            status, body = 500, "no\nluck"
        elif "short" in texts:
            body = '{"rewards": []}'
        elif "nan" in texts:
            body = json.dumps({"rewards": [float("nan")] * len(texts)})
        elif "null" in texts:
            body = json.dumps({"rewards": [None if text == "null" else len(text) for text in texts]})
        elif "flood" in texts:
            body = "x" * (20 << 20)
        elif "drop" in texts:
            self.connection.shutdown(2)
            return
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())
        except OSError:
            pass

    def log_message(self, *arguments):
        pass

class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 100

    def handle_error(self, *arguments):
        pass

server = Server(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
)";

/// A server in a process of its own.
class Server {
 public:
  explicit Server(const Programs& programs)
      : child_({.program = *find_program("python3", "/"),
                .arguments = {"python3", programs.write("server.py", kServer).string()},
                .cwd = {}}) {
    std::string text;
    char byte = 0;
    while (text.empty() || text.back() != '\n')
      if (::read(child_.output(), &byte, 1) == 1)
        text += byte;
      else
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    port_ = text.substr(0, text.size() - 1);
  }
  std::string url() const { return "http://127.0.0.1:" + port_ + "/score"; }

 private:
  Child child_;
  std::string port_;
};

RewardConfig config_of(const std::string& url) {
  RewardConfig config;
  config.kind = RewardKind::Url;
  config.url = url;
  config.timeout_s = 1.5;
  config.place = "job.yaml:9:5: rewards[0]";
  return config;
}

Scores scores_over(Reward& reward, const std::vector<std::string>& completions) {
  const auto samples = samples_of(completions, "\"p\"", R"({"level": 1})");
  return reward.score(samples);
}

std::string start_problem(const std::string& url) {
  try {
    make_reward(config_of(url));
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("a server scores, and what goes wrong costs its sample only", "[rewards]") {
  const Programs programs;
  const Server server(programs);
  std::vector<std::string> many;
  Values expected;
  for (std::size_t i = 0; i < 50; ++i) {
    many.push_back(std::string(i * 100, 'x'));
    expected.push_back(static_cast<double>(i * 100));
  }
  for (const std::int64_t workers : {1, 3, 60}) {
    auto config = config_of(server.url());
    config.workers = workers;
    config.timeout_s = 10;
    const auto reward = make_reward(config);
    const auto scores = scores_over(*reward, many);
    CHECK(values_of(scores) == expected);
    CHECK(faults_of(scores).empty());
    CHECK(scores_over(*reward, {}).values.empty());
  }
  auto patient = config_of(server.url());
  patient.timeout_s = 10;
  const auto reward = make_reward(patient), hasty = make_reward(config_of(server.url()));
  for (const auto& [text, reason] : std::vector<std::pair<std::string, std::string>>{
           {"hang", "1: timed out after 1.5 s"},
           {"drip", "1: timed out after 1.5 s"},
           {"error", "1: answered HTTP 500: no\\nluck"},
           {"short", "1: answered 0 rewards for 1 sample"},
           {"nan", "1: answered {\"rewards\": [NaN]}, expected {\"rewards\": [...]}"},
           {"flood", "1: answered more than 16 MiB"},
           {"drop", "1: Server returned nothing"},
       }) {
    CAPTURE(text);
    const auto scores =
        scores_over(text == "hang" || text == "drip" ? *hasty : *reward, {"ok", text, "good"});
    CHECK(values_of(scores) == Values{2, -99, 4});
    CHECK_THAT(faults_of(scores), Contains(reason));
    CHECK(scores.faults.size() == 1);
  }
  const auto scores = scores_over(*reward, {"ok", "null", "good"});
  CHECK(values_of(scores) == Values{2, -99, 4});
  CHECK(scores.faults.empty());
}

TEST_CASE("nobody waits for a server once it is given up", "[rewards]") {
  const Programs programs;
  const Server server(programs);
  auto config = config_of(server.url());
  config.timeout_s = 60;
  const auto reward = make_reward(config);
  CHECK(gives_up_soon(*reward, samples_of({"hang"}, "\"p\"", R"({"level": 1})")));
}

TEST_CASE("a server that went away is not asked for every sample", "[rewards]") {
  const Programs programs;
  auto server = std::make_unique<Server>(programs);
  const auto reward = make_reward(config_of(server->url()));
  CHECK(values_of(scores_over(*reward, {"a"})) == Values{1});
  server.reset();
  const Stopwatch watch;
  const auto scores = scores_over(*reward, std::vector<std::string>(500, "a"));
  CHECK(scores.faults.size() == 500);
  CHECK_THAT(scores.faults[499].reason, Contains("connect"));
  CHECK(watch.seconds() < 60);
}

TEST_CASE("a URL that is none, or where nobody listens, is told at once", "[rewards]") {
  CHECK_THAT(start_problem("localhost:3"),
             Contains("job.yaml:9:5: rewards[0].url: expected a URL"));
  CHECK_THAT(start_problem("ftp://a/b"), Contains("found \"ftp://a/b\""));
  CHECK_THAT(start_problem("http://"), Contains("expected a URL"));
  CHECK_THAT(start_problem(""), Contains("expected a URL"));
  CHECK_THAT(start_problem("http://127.0.0.1:1/x"), Contains("(Connection refused)"));
}
