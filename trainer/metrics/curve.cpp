#include "trainer/metrics/curve.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <iterator>

namespace tailor::trainer {
namespace {

constexpr int kMinWidth = 24, kMinHeight = 2, kMaxCells = 1000;

std::string label(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.4g", value);
  return text.data();
}

std::string right_aligned(const std::string& text, std::size_t width) {
  return std::string(width > text.size() ? width - text.size() : 0, ' ') + text;
}

/// `columns` values out of many (the mean of each share) or of few (straight lines between them).
std::vector<double> resampled(const std::vector<double>& values, int columns) {
  std::vector<double> columns_of;
  const auto n = static_cast<double>(values.size());
  for (int c = 0; c < columns; ++c) {
    if (values.size() > static_cast<std::size_t>(columns)) {
      const auto begin = static_cast<std::size_t>(n * c / columns);
      const auto end = std::max(begin + 1, static_cast<std::size_t>(n * (c + 1) / columns));
      double sum = 0.0;
      for (auto i = begin; i < end; ++i) sum += values[i];
      columns_of.push_back(sum / static_cast<double>(end - begin));
    } else {
      const double x = columns > 1 ? (n - 1.0) * c / (columns - 1) : 0.0;
      const auto left = static_cast<std::size_t>(x);
      const auto right = std::min(left + 1, values.size() - 1);
      const double share = x - static_cast<double>(left);
      columns_of.push_back(values[left] * (1.0 - share) + values[right] * share);
    }
  }
  return columns_of;
}

/// Rows of cells; a cell is a bit set of its dots, 2 wide and 4 high, as braille numbers them.
class Canvas {
 public:
  Canvas(int width, int height, bool unicode)
      : unicode_(unicode),
        cells_(static_cast<std::size_t>(height),
               std::vector<unsigned>(static_cast<std::size_t>(width), 0U)) {}

  int dots_across() const { return static_cast<int>(cells_[0].size()) * (unicode_ ? 2 : 1); }
  int dots_down() const { return static_cast<int>(cells_.size()) * (unicode_ ? 4 : 1); }

  void dot(int x, int y) {  // y from the top
    static constexpr unsigned kBits[4][2] = {
        {0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
    if (unicode_)
      cells_[static_cast<std::size_t>(y / 4)][static_cast<std::size_t>(x / 2)] |=
          kBits[y % 4][x % 2];
    else
      cells_[static_cast<std::size_t>(y)][static_cast<std::size_t>(x)] = 1U;
  }

  std::string row(std::size_t y) const {
    std::string text;
    for (const auto dots : cells_[y]) {
      if (dots == 0U)
        text += ' ';
      else if (!unicode_)
        text += '*';
      else  // U+2800 + dots in UTF-8
        text += {'\xE2', static_cast<char>(0xA0U | dots >> 6),
                 static_cast<char>(0x80U | (dots & 0x3FU))};
    }
    while (text.ends_with(' ')) text.pop_back();
    return text;
  }

 private:
  bool unicode_;
  std::vector<std::vector<unsigned>> cells_;
};

void plot(Canvas& canvas, const std::vector<double>& values, double low, double high) {
  const int bottom = canvas.dots_down() - 1;
  int before = -1;
  const auto columns = resampled(values, canvas.dots_across());
  for (int x = 0; x < canvas.dots_across(); ++x) {
    const double value = columns[static_cast<std::size_t>(x)];
    double share = (value / 2 - low / 2) / (high / 2 - low / 2);  // high - low may overflow
    share = std::isfinite(share) ? std::clamp(share, 0.0, 1.0) : 0.0;
    const int y = bottom - static_cast<int>(std::lround(share * bottom));
    canvas.dot(x, y);
    // A steep piece is filled from the column before, or the curve falls apart into dots.
    for (int between = before; before >= 0 && between != y; between += between < y ? 1 : -1)
      if (between != before) canvas.dot(x, between);
    before = y;
  }
}

}  // namespace

std::string draw_curve(const std::vector<double>& values, int width, int height, bool unicode,
                       std::int64_t last_x) {
  std::vector<double> finite;
  std::copy_if(values.begin(), values.end(), std::back_inserter(finite),
               [](double value) { return std::isfinite(value); });
  if (finite.empty()) return {};
  const auto [least, most] = std::minmax_element(finite.begin(), finite.end());
  double low = *least, high = *most;
  if (!(high > low)) {
    const double margin = std::max(std::abs(low) * 0.1, 1e-3);
    low -= margin, high += margin;
  }
  width = std::clamp(width, kMinWidth, kMaxCells);
  height = std::clamp(height, kMinHeight, kMaxCells);
  const auto top = label(high), middle = label(low / 2 + high / 2), bottom = label(low);
  const auto margin = std::max({top.size(), middle.size(), bottom.size()});

  Canvas canvas(width - static_cast<int>(margin) - 2, height, unicode);
  plot(canvas, finite, low, high);
  std::string text;
  for (int y = 0; y < height; ++y) {
    const bool is_middle = height % 2 == 1 && y == height / 2;
    const auto mark = y == 0 ? top : y == height - 1 ? bottom : is_middle ? middle : "";
    const auto* axis =
        unicode ? (mark.empty() ? " \u2502" : " \u2524") : (mark.empty() ? " |" : " +");
    text += right_aligned(mark, margin) + axis + canvas.row(static_cast<std::size_t>(y)) + "\n";
  }
  const auto cells = static_cast<std::size_t>(width) - margin - 2;
  text += std::string(margin + 1, ' ') + (unicode ? "\u2514" : "+");
  for (std::size_t i = 0; i < cells; ++i) text += unicode ? "\u2500" : "-";
  const auto last = std::to_string(last_x > 0 ? last_x : static_cast<std::int64_t>(values.size()));
  text += "\n" + std::string(margin + 2, ' ') + "1" + right_aligned(last, cells - 1) + "\n";
  return text;
}

}  // namespace tailor::trainer
