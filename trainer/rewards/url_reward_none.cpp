#include "configs/reader.hpp"
#include "trainer/rewards/external.hpp"

namespace tailor::trainer {

std::unique_ptr<Reward> make_url_reward(const RewardConfig& config) {
  throw configs::ConfigError(config.place + ".url: this build has no HTTP (libcurl was not found)");
}

}  // namespace tailor::trainer
