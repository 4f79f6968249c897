#pragma once

#include <cstdint>

namespace tailor::trainer {

/// Memory of this process in RAM now and at its highest, as the kernel counts it (VmRSS and VmHWM
/// of /proc/self/status); 0 where the kernel does not say.
std::int64_t rss_bytes();
std::int64_t peak_rss_bytes();

}  // namespace tailor::trainer
