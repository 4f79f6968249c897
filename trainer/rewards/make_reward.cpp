#include "trainer/rewards/built_in.hpp"
#include "trainer/rewards/external.hpp"
#include "trainer/rewards/reward.hpp"

namespace tailor::trainer {

std::unique_ptr<Reward> make_reward(const RewardConfig& config) {
  switch (config.kind) {
    case RewardKind::Python:
      return make_python_reward(config);
    case RewardKind::Command:
      return make_command_reward(config);
    case RewardKind::Url:
      return make_url_reward(config);
    default:
      return make_built_in_reward(config);
  }
}

}  // namespace tailor::trainer
