#include "trainer/metrics/progress.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <vector>

namespace tailor::trainer {
namespace {

constexpr int kMinBar = 10, kMaxBar = 32;  // columns
constexpr const char* kGap = "  ";

template <typename... Numbers>
std::string printed(const char* format, Numbers... numbers) {
  char text[64];
  std::snprintf(text, sizeof text, format, numbers...);
  return text;
}

std::string learning_rate_text(double rate) { return printed("%.2e", rate); }
std::string loss_text(double loss) { return printed("%.4f", loss); }
std::string norm_text(double norm) { return printed("%.3g", norm); }

double share_done(const StepMetrics& metrics, const Progress& progress) {
  if (progress.total_steps <= 0) return 0.0;
  return std::clamp(static_cast<double>(metrics.step) / static_cast<double>(progress.total_steps),
                    0.0, 1.0);
}

std::string repeated(const char* text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

/// `columns` wide, whatever it takes in bytes.
std::string bar_of(double share, int columns, const Terminal& terminal) {
  if (!terminal.unicode) {
    const int inner = columns - 2;
    const int full = static_cast<int>(share * inner);
    return "[" + repeated("#", full) + repeated("-", inner - full) + "]";
  }
  const int halves = static_cast<int>(share * columns * 2);
  const int full = halves / 2;
  const bool half = halves % 2 == 1;
  const auto done = repeated("\u2501", full) + (half ? "\u2578" : "");
  const auto rest = repeated("\u2500", columns - full - (half ? 1 : 0));
  return terminal.colour ? "\033[32m" + done + "\033[0m\033[2m" + rest + "\033[0m" : done + rest;
}

std::string steps_text(const StepMetrics& metrics, const Progress& progress) {
  const auto total = std::to_string(progress.total_steps);
  auto step = std::to_string(metrics.step);
  step.insert(0, total.size() > step.size() ? total.size() - step.size() : 0, ' ');
  return step + "/" + total;
}

constexpr const char* kMaxLoad = "router/max_load";

/// How balanced the experts are, where routers are trained.
std::string router_text(const StepMetrics& metrics) {
  const auto load = find_number(metrics.more, kMaxLoad),
             aux = find_number(metrics.more, "aux_loss");
  if (!load || !aux) return {};
  return printed("  aux loss %.3f", *aux) + printed("  max load %.2f", *load);
}

bool is_grpo(const StepMetrics& metrics) {
  return find_number(metrics.more, "clip_ratio/region_mean").has_value();
}

/// What GRPO's user watches, the most wanted first; of the rollouts only in a step that made some.
/// The loss is about 0 by construction and says nothing.
std::vector<std::string> grpo_figures(const StepMetrics& metrics) {
  const auto of = [&](const char* name) {
    return find_number(metrics.more, name).value_or(std::numeric_limits<double>::quiet_NaN());
  };
  const bool sampled = find_number(metrics.more, "reward").has_value();
  std::vector<std::string> list;
  if (sampled) {
    list.push_back(printed("reward %.3f (std %.2f)", of("reward"), of("reward_std")));
    list.push_back(printed("no spread %.0f%%", 100.0 * of("frac_reward_zero_std")));
    list.push_back(printed("length %.0f", of("completions/mean_length")));
  }
  if (find_number(metrics.more, "kl")) list.push_back(printed("kl %.3g", of("kl")));
  list.push_back(printed("entropy %.2f", of("entropy")));
  if (sampled) list.push_back(rate_text(of("rollout_tokens_per_second")) + " tok/s sampled");
  list.push_back(rate_text(of("update_tokens_per_second")) +
                 (sampled ? " trained" : " tok/s trained"));
  if (sampled) {
    const double rollout = of("rollout_time_s"), reward = of("reward_time_s"),
                 update = of("update_time_s"), all = std::max(rollout + reward + update, 1e-9);
    list.push_back(printed("time %.0f/%.0f/%.0f%%", 100.0 * rollout / all, 100.0 * reward / all,
                           100.0 * update / all));
  }
  list.push_back("lr " + learning_rate_text(metrics.learning_rate));
  list.push_back("grad " + norm_text(metrics.grad_norm));
  return list;
}

/// Figures behind the bar, the most wanted first.
std::vector<std::string> figures(const StepMetrics& metrics, const Progress& progress) {
  std::vector<std::string> list;
  if (!progress.activity.empty()) list.push_back(progress.activity);
  list.push_back(duration_text(progress.elapsed_s) + "<" +
                 (progress.left_s ? duration_text(*progress.left_s) : "?"));
  if (metrics.step > 0 && is_grpo(metrics)) {
    for (auto& figure : grpo_figures(metrics)) list.push_back(std::move(figure));
    list.push_back(bytes_text(metrics.rss_bytes));
  } else if (metrics.step > 0) {
    list.push_back("loss " + loss_text(metrics.loss));
    list.push_back("lr " + learning_rate_text(metrics.learning_rate));
    list.push_back("grad " + norm_text(metrics.grad_norm));
    if (const auto load = find_number(metrics.more, kMaxLoad))
      list.push_back(printed("max load %.2f", *load));
    list.push_back(rate_text(metrics.tokens_per_second) + " tok/s (" +
                   rate_text(metrics.supervised_tokens_per_second) + ")");
    list.push_back(bytes_text(metrics.rss_bytes));
  }
  return list;
}

}  // namespace

std::string bar_line(const StepMetrics& metrics, const Progress& progress, int width,
                     const Terminal& terminal) {
  const double share = share_done(metrics, progress);
  const auto head =
      steps_text(metrics, progress) + printed(" %3d%%", static_cast<int>(100.0 * share));
  if (static_cast<int>(head.size()) > width) return {};
  int left = width - static_cast<int>(head.size());
  const int gap = 2;
  std::string tail;
  const bool has_bar = left >= gap + kMinBar;
  if (has_bar) left -= gap + kMinBar;
  for (const auto& figure : figures(metrics, progress)) {
    const int columns = gap + static_cast<int>(figure.size());  // figures are ASCII
    if (columns > left) break;
    tail += kGap + figure;
    left -= columns;
  }
  if (!has_bar) return head + tail;
  return head + kGap + bar_of(share, std::min(kMinBar + left, kMaxBar), terminal) + tail;
}

std::string plain_line(const StepMetrics& metrics, const Progress& progress) {
  auto line = "step " + steps_text(metrics, progress) +
              printed(" (%d%%)", static_cast<int>(100.0 * share_done(metrics, progress)));
  if (is_grpo(metrics)) {
    for (const auto& figure : grpo_figures(metrics)) line += kGap + figure;
    line +=
        kGap + bytes_text(metrics.rss_bytes) + kGap + duration_text(progress.elapsed_s) + " gone";
    if (progress.left_s) line += ", " + duration_text(*progress.left_s) + " left";
    return line;
  }
  line += "  loss " + loss_text(metrics.loss) + "  lr " +
          learning_rate_text(metrics.learning_rate) + "  grad norm " +
          norm_text(metrics.grad_norm) + router_text(metrics) + "  " +
          rate_text(metrics.tokens_per_second) + " tokens/s (" +
          rate_text(metrics.supervised_tokens_per_second) + " supervised)  " +
          bytes_text(metrics.rss_bytes) + "  " + duration_text(progress.elapsed_s) + " gone";
  if (progress.left_s) line += ", " + duration_text(*progress.left_s) + " left";
  return line;
}

std::string eval_line(const EvalMetrics& metrics) {
  return "step " + std::to_string(metrics.step) + ": eval loss " + loss_text(metrics.eval_loss) +
         ", perplexity " + printed("%.4g", metrics.eval_perplexity) + ", token accuracy " +
         printed("%.3f", metrics.eval_mean_token_accuracy) + " (" +
         rate_text(static_cast<double>(metrics.eval_num_tokens)) + " tokens in " +
         printed("%.1f s)", metrics.eval_runtime_s);
}

std::string duration_text(double seconds) {
  // 1000 hours: what a stalled clock or a first slow step predicts is not worth more digits.
  const auto total =
      std::isfinite(seconds) ? static_cast<std::int64_t>(std::clamp(seconds, 0.0, 3.6e6)) : 3600000;
  const auto s = static_cast<int>(total % 60), m = static_cast<int>(total / 60 % 60),
             h = static_cast<int>(total / 3600);
  return h > 0 ? printed("%d:%02d:%02d", h, m, s) : printed("%d:%02d", m, s);
}

std::string bytes_text(std::int64_t bytes) {
  const double mebibytes = static_cast<double>(bytes) / (1 << 20);
  return mebibytes < 1000.0 ? printed("%.0f MiB", mebibytes)
                            : printed("%.1f GiB", mebibytes / 1024.0);
}

std::string rate_text(double per_second) {
  if (!(per_second < 1e15)) return "?";
  if (per_second < 10.0) return printed("%.2g", per_second);
  auto digits = printed("%.0f", per_second);
  for (auto at = static_cast<std::ptrdiff_t>(digits.size()) - 3; at > 0; at -= 3)
    digits.insert(static_cast<std::size_t>(at), 1, ',');
  return digits;
}

}  // namespace tailor::trainer
