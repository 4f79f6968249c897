#include "trainer/rewards/built_in.hpp"
#include "trainer/rewards/reward.hpp"

namespace tailor::trainer {

std::unique_ptr<Reward> make_reward(const RewardConfig& config) {
  return make_built_in_reward(config);
}

}  // namespace tailor::trainer
