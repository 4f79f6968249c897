#pragma once

#include "configs/reader.hpp"

namespace tailor::trainer {

/// What numbers of the job file may be.
inline constexpr configs::Range kNotNegative{.min = 0.0};
inline constexpr configs::Range kPositive{.min = 0.0, .open_min = true};
inline constexpr configs::Range kShare{.min = 0.0, .max = 1.0};
inline constexpr configs::Range kShareAboveZero{.min = 0.0, .max = 1.0, .open_min = true};
inline constexpr configs::Range kBelowOne{.min = 0.0, .max = 1.0, .open_max = true};
inline constexpr configs::Range kAboveOne{.min = 1.0, .open_min = true};

}  // namespace tailor::trainer
