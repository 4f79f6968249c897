#include "trainer/metrics/metrics.hpp"

#include <algorithm>

namespace tailor::trainer {

std::optional<double> find_number(const std::vector<Metric>& metrics, const std::string& name) {
  const auto found = std::ranges::find(metrics, name, &Metric::name);
  if (found == metrics.end() || !found->is_number()) return std::nullopt;
  return found->number();
}

std::vector<Metric> fields(const StepMetrics& m) {
  std::vector<Metric> out = {{"step", m.step},
                             {"epoch", m.epoch},
                             {"loss", m.loss},
                             {"learning_rate", m.learning_rate},
                             {"grad_norm", m.grad_norm}};
  if (m.mean_token_accuracy) out.push_back({"mean_token_accuracy", *m.mean_token_accuracy});
  const std::vector<Metric> rest = {
      {"num_tokens", m.num_tokens},
      {"tokens_per_second", m.tokens_per_second},
      {"supervised_tokens_per_second", m.supervised_tokens_per_second},
      {"step_time_s", m.step_time_s},
      {"rss_bytes", m.rss_bytes}};
  out.insert(out.end(), rest.begin(), rest.end());
  out.insert(out.end(), m.more.begin(), m.more.end());
  return out;
}

std::vector<Metric> fields(const EvalMetrics& m) {
  return {{"step", m.step},
          {"eval_loss", m.eval_loss},
          {"eval_perplexity", m.eval_perplexity},
          {"eval_mean_token_accuracy", m.eval_mean_token_accuracy},
          {"eval_num_tokens", m.eval_num_tokens},
          {"eval_runtime_s", m.eval_runtime_s}};
}

}  // namespace tailor::trainer
