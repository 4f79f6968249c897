#pragma once

#include <memory>

#include "trainer/rewards/reward.hpp"

namespace tailor::trainer {

/// The rewards that need no program beside this one. All are functions of one sample; a sample that
/// cannot be judged is a RewardFault, of the row where that has no such column.
///
///   numeric_answer  1 where answer_number() of the completion equals that of the column
///   exact_answer    1 where the marked answer, or else the whole completion, equals the column
///   regex           1 where the pattern matches somewhere in the completion
///   json_schema     1 where the completion is JSON that the schema accepts (see json_schema.hpp)
///   format_tags     1 where each tag opens and closes once, in order, nothing else outside
///   length          1 from min_length to max_length tokens, else 0
///   overlong        0 up to max_length - cache_length tokens, then falling to -1 at max_length
///                   (soft overlong punishment, DAPO, arXiv 2503.14476, equation 13)
///   repetition      max_penalty * (1 - distinct / all n-grams of the lower-case words)
///                   (as in open-r1, after arXiv 2502.03373, appendix)
///
/// A column may hold a list: any of its values is right.
std::unique_ptr<Reward> make_built_in_reward(const RewardConfig& config);

}  // namespace tailor::trainer
