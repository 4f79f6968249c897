#pragma once

#include "distributed/group.hpp"
#include "trainer/grpo/update.hpp"

namespace tailor::trainer {

/// In place: what is a sum becomes that of all ranks, what is a largest or smallest one that of
/// all. grad_norm and num_loss_tokens are left. Collective.
void add_over_ranks(UpdateReport& report, distributed::Group& data);

}  // namespace tailor::trainer
