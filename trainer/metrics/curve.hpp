#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tailor::trainer {

/// Draws values over 1 ... n into `height` lines of at most `width` columns, with labels of the
/// axes; each line ends with a newline. Dots are braille characters, or ASCII where `unicode` is
/// false. Where there are more values than columns of dots, a dot is the mean of its share. Values
/// that are no numbers are left out; "" where nothing remains. `last_x` is the label of the last
/// value (0: n).
std::string draw_curve(const std::vector<double>& values, int width, int height,
                       bool unicode = true, std::int64_t last_x = 0);

}  // namespace tailor::trainer
