#include "trainer/report/report.hpp"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "configs/reader.hpp"
#include "trainer/report/metrics_table.hpp"
#include "trainer/report/page.hpp"

namespace fs = std::filesystem;
using namespace tailor::trainer;
using Json = nlohmann::json;

namespace {

/// A run directory, gone at the end.
struct Run {
  fs::path dir = fs::temp_directory_path() / ("tailor_report_" + std::to_string(::getpid()));

  Run() {
    fs::remove_all(dir);
    fs::create_directories(dir);
  }
  ~Run() { fs::remove_all(dir); }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  void write(const std::string& name, const std::string& text) const {
    fs::create_directories((dir / name).parent_path());
    std::ofstream(dir / name, std::ios::binary) << text;
  }
  std::string error() const {
    try {
      make_report(dir);
    } catch (const tailor::configs::ConfigError& e) {
      return e.what();
    }
    return "";
  }
};

/// What the page's script reads.
Json data_of(const std::string& html) {
  const std::string begin = "id=\"data\">";
  const auto at = html.find(begin) + begin.size();
  return Json::parse(html.substr(at, html.find("</script>", at) - at));
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

bool has_note(const Report& report, const std::string& part) {
  for (const auto& note : report.notes)
    if (note.find(part) != std::string::npos) return true;
  return false;
}

std::string metrics_lines(int steps) {
  std::string out;
  for (int step = 1; step <= steps; ++step)
    out += Json{{"step", step},
                {"loss", 4.0 / step},
                {"num_tokens", 10 * step},
                {"step_time_s", 0.5},
                {"rss_bytes", 1000 + step}}
               .dump() +
           '\n';
  return out;
}

Json sample(int step, const std::string& completion) {
  return {{"step", step}, {"prompt", "p"}, {"completion", completion}, {"reward", 0.5}};
}

}  // namespace

TEST_CASE("a page holds what the run logged and how it was set", "[report]") {
  const Run run;
  run.write("config.yaml",
            "task: sft\nmodel: {name_or_path: models/tiny}\npeft: {r: 4, lora_alpha: 8, "
            "target_modules: [q_proj, v_proj]}\ntrain: {max_steps: 9}\nof_a_later_version: 1\n");
  run.write("metrics.jsonl", metrics_lines(8) +
                                 "{\"step\": 4, \"eval_loss\": 2.5, \"eval_runtime_s\": 1.0}\n" +
                                 "{\"step\": 8, \"eval_loss\": 2.75, \"eval_runtime_s\": 1.0}\n");
  run.write("checkpoints/step-000004/adapter_model.safetensors", "12345");
  run.write("checkpoints/.partial/x", "12345");
  const auto report = make_report(run.dir);
  const auto data = data_of(report.html);

  CHECK(data["job"]["model"] == "models/tiny");
  CHECK(data["job"]["r"] == 4);
  CHECK(data["job"]["target_modules"] == "q_proj, v_proj");
  CHECK(data["job"]["max_steps"] == 9);
  CHECK(data["metrics"]["steps"] == Json({1, 2, 3, 4, 5, 6, 7, 8}));
  CHECK(data["metrics"]["columns"]["loss"]["values"][3] == 1);
  CHECK(data["metrics"]["columns"]["eval_loss"]["values"][3] == 2.5);
  CHECK(data["metrics"]["columns"]["eval_loss"]["values"][2].is_null());
  CHECK(data["metrics"]["columns"]["elapsed_s"]["values"][4] == 3.5);  // one evaluation between
  CHECK(data["checkpoints"] == Json({{{"name", "step-000004"}, {"bytes", 5}}}));
  CHECK(data["num_samples"].is_null());
  CHECK(report.notes.empty());
  CHECK(report.totals.steps == 8);
  CHECK(report.totals.best_eval_step == 4);
  CHECK(report.totals.last_eval_loss == 2.75);
  CHECK(report.totals.peak_rss_bytes == 1008);
  CHECK(report.totals.elapsed_s == 6.0);
  CHECK(report.totals.tokens_per_second == 20.0);
}

TEST_CASE("a page loads nothing and no text of the run is HTML or script", "[report]") {
  const Run run;
  const std::string hostile =
      "</script><script>alert(1)</script><!-- <img src=x onerror=alert(1)> {{data}} & \"'";
  run.write("metrics.jsonl", Json{{"step", 1}, {"loss", 1.0}, {hostile, 2.0}}.dump() + '\n');
  auto line = sample(1, hostile);
  line["prompt"] = Json::array({{{"role", hostile}, {"content", hostile}}});
  line["rewards"] = {{hostile, nullptr}};
  line[hostile] = {{hostile, hostile}};
  run.write("completions.jsonl", line.dump() + '\n');
  run.write("config.yaml", "task: \"" + std::string("</script><b>") + "\"\n");
  const auto html = make_report(run.dir).html;

  CHECK(count(html, "<script") == 2);
  CHECK(count(html, "</script") == 2);
  CHECK(count(html, "<img") == 0);
  CHECK(html.find("{{title}}") == std::string::npos);
  CHECK(html.find("src=\"") == std::string::npos);
  CHECK(html.find("url(") == std::string::npos);
  CHECK(html.find("@import") == std::string::npos);
  CHECK(html.find("default-src 'none'") != std::string::npos);

  const auto data = data_of(html);
  CHECK(data["metrics"]["columns"].contains(hostile));
  const auto& shown = data["samples"][0];
  CHECK(shown["completion"] == hostile);
  CHECK(shown["prompt"][0] == Json({{"role", hostile}, {"content", hostile}}));
  CHECK(shown["rewards"] == Json({{hostile, nullptr}}));
  CHECK(shown["columns"][hostile] == Json({{hostile, hostile}}).dump());
  CHECK(data["job"]["task"] == "</script><b>");
}

TEST_CASE("the name of a directory is text in the title", "[report]") {
  CHECK(page("<b>&\"", "{}").find("<title>&lt;b&gt;&amp;&quot; - Tailor</title>") !=
        std::string::npos);
  CHECK(script_safe("{\"a\": \"</a>&\"}") == "{\"a\": \"\\u003c/a\\u003e\\u0026\"}");
}

TEST_CASE("damaged lines are left out with a note", "[report]") {
  const Run run;
  run.write("metrics.jsonl", metrics_lines(3) + "{\"step\": 4, \"lo");
  run.write("completions.jsonl", sample(1, "a").dump() + "\nno json\n[1]\n" +
                                     "{\"step\": 2, \"completion\": \"\xff \xc3( \x01\"}\n" +
                                     "{\"step\": 3, \"compl");
  const auto report = make_report(run.dir);
  CHECK(report.totals.steps == 3);
  CHECK(has_note(report, "metrics.jsonl: the last line is not complete"));
  CHECK(has_note(report, "completions.jsonl: 3 lines are not usable, the first is line 2"));
  CHECK(has_note(report, "config.yaml is not there"));
  CHECK(report.num_samples == 2);
  CHECK(data_of(report.html)["samples"][1]["completion"] ==
        "\xef\xbf\xbd \xef\xbf\xbd(  ");  // U+FFFD for what is no UTF-8
}

TEST_CASE("NaN, infinity and null are told apart", "[report]") {
  const Run run;
  run.write("metrics.jsonl",
            "{\"step\": 1, \"loss\": 2.0, \"kl\": null}\n{\"step\": 2, \"loss\": \"nan\"}\n"
            "{\"step\": 3, \"loss\": \"-inf\", \"text\": \"x\", \"flag\": true}\n");
  run.write("completions.jsonl",
            "{\"completion\": \"a\", \"reward\": null, \"advantage\": \"nan\", \"rewards\": "
            "{\"r\": null, \"s\": 1}}\n");
  const auto report = make_report(run.dir);
  const auto data = data_of(report.html);
  CHECK(data["metrics"]["columns"]["loss"]["values"] == Json({2, "nan", "-inf"}));
  CHECK(data["metrics"]["columns"].size() == 1);
  CHECK(report.totals.last_loss == 2.0);
  CHECK(data["samples"][0] ==
        Json({{"completion", "a"}, {"advantage", "nan"}, {"rewards", {{"r", nullptr}, {"s", 1}}}}));
}

TEST_CASE("a large file of samples is cut to the latest, and a long text is cut", "[report]") {
  const Run run;
  std::string lines;
  for (int step = 1; step <= 30; ++step) lines += sample(step, std::to_string(step)).dump() + '\n';
  const std::string long_text = std::string(199, 'a') + "\xc3\xa9" + std::string(1000, 'b');
  run.write("completions.jsonl", lines + sample(31, long_text).dump() + '\n');
  run.write("metrics.jsonl", metrics_lines(1));

  ReportLimits limits;
  limits.samples = {.max_samples = 10, .max_text_bytes = 200, .max_bytes = 1 << 20};
  auto report = make_report(run.dir, limits);
  auto samples = data_of(report.html)["samples"];
  CHECK(report.num_samples == 31);
  CHECK(report.num_samples_left_out == 21);
  CHECK(has_note(report, "of 31 samples the page shows the latest 10"));
  REQUIRE(samples.size() == 10);
  CHECK(samples[0]["completion"] == "22");
  CHECK(samples[9]["completion"] ==
        std::string(199, 'a') + "\n[... 1002 more bytes are not in this page]");

  limits.samples.max_bytes = 600;
  report = make_report(run.dir, limits);
  samples = data_of(report.html)["samples"];
  CHECK(samples.size() < 10);
  CHECK(samples.back()["step"] == 31);
}

TEST_CASE("many steps become points that keep mean, least and greatest", "[report]") {
  MetricsTable table;
  for (int i = 1; i <= 7; ++i) table.steps.push_back(i);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  table.columns["loss"] = {1.0, 2.0, 6.0, nan, std::nullopt, nan, 5.0};
  table.columns["num_tokens"] = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0};
  const auto curves = thinned(table, 3);
  CHECK(curves.rows_a_point == 3);
  CHECK(curves.steps == std::vector<std::int64_t>{3, 6, 7});
  const auto& loss = curves.curves.at("loss");
  CHECK(loss.values[0] == 3.0);
  CHECK(loss.low[0] == 1.0);
  CHECK(loss.high[0] == 6.0);
  CHECK(std::isnan(loss.values[1].value()));
  CHECK(loss.values[2] == 5.0);
  CHECK(curves.curves.at("num_tokens").values == std::vector<Cell>{3.0, 6.0, 7.0});

  const auto same = thinned(table, 7);
  CHECK(same.rows_a_point == 1);
  CHECK(same.curves.at("loss").low.empty());
}

TEST_CASE("histograms of neighbouring steps are added", "[report]") {
  const std::vector<double> edges = {0, 1, 2}, others = {2, 3, 4};
  const auto out = thinned({{1, edges, {1, 2}},
                            {2, edges, {3, 4}},
                            {3, edges, {5, 6}},
                            {4, others, {7, 8}},
                            {5, edges, {9, 9}}},
                           3);
  REQUIRE(out.size() == 3);
  CHECK(out[0].step == 2);
  CHECK(out[0].counts == std::vector<double>{4, 6});
  CHECK(out[1].step == 4);
  CHECK(out[1].edges == std::vector<double>{0, 2, 4});
  CHECK(out[1].counts == std::vector<double>{11, 15});
  CHECK(out[2].counts == std::vector<double>{9, 9});
}

TEST_CASE("a histogram that is none leaves a note", "[report]") {
  const Run run;
  run.write("metrics.jsonl",
            "{\"step\": 1, \"reward_histogram\": {\"edges\": [0, 1, 2], \"counts\": [3, 4]}}\n"
            "{\"step\": 2, \"reward_histogram\": {\"edges\": [0, 1], \"counts\": [3, 4]}}\n"
            "{\"step\": 3, \"reward_histogram\": {\"edges\": [1, 0], \"counts\": [3]}}\n"
            "{\"step\": 4, \"reward_histogram\": null}\n");
  const auto report = make_report(run.dir);
  CHECK(data_of(report.html)["histograms"] ==
        Json({{{"step", 1}, {"edges", {0, 1, 2}}, {"counts", {3, 4}}}}));
  CHECK(has_note(report, "reward_histogram of 2 lines are left out"));
}

TEST_CASE("a rewritten step counts once, with its latest values", "[report]") {
  const Run run;
  run.write("metrics.jsonl",
            "{\"step\": 2, \"loss\": 5}\n{\"step\": 1, \"loss\": 4}\n{\"step\": 2, \"loss\": 3}\n");
  const auto metrics = data_of(make_report(run.dir).html)["metrics"];
  CHECK(metrics["steps"] == Json({1, 2}));
  CHECK(metrics["columns"]["loss"]["values"] == Json({4, 3}));
}

TEST_CASE("what is no run directory is an error that says what was looked for", "[report]") {
  const Run run;
  CHECK(run.error() == run.dir.string() +
                           ": expected a run directory of `tailor train`, found neither "
                           "metrics.jsonl nor completions.jsonl; a job writes the first unless "
                           "output.report_to leaves jsonl out");
  CHECK_THROWS_WITH(make_report(run.dir / "none"), Catch::Contains("none: no such directory"));
  run.write("file", "");
  CHECK_THROWS_WITH(make_report(run.dir / "file"), Catch::Contains("expected a run directory"));
}

TEST_CASE("an empty log makes a page", "[report]") {
  const Run run;
  run.write("metrics.jsonl", "");
  run.write("completions.jsonl", "");
  const auto report = make_report(run.dir);
  CHECK(has_note(report, "metrics.jsonl has no step yet"));
  CHECK(data_of(report.html)["num_samples"] == 0);
}
