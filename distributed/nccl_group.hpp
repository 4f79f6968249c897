#pragma once

#include <memory>

#include "distributed/group.hpp"

namespace tailor::distributed {

bool has_nccl();  // this program was built with it; else the next one throws CommError

/// The ranks of `host`, each on a GPU of its own; `device` counts the GPUs of the machine. Tensors
/// on this GPU go over NCCL, those in host memory over `host`, which also makes the barrier. 16-bit
/// floats travel as float32 where they are reduced. GroupOptions::check_calls is for host memory.
///
/// A call is enqueued behind the current stream; waiting for it polls its end and the
/// communicator's state. Out of time or after an error the communicator is aborted, which ends its
/// kernels.
///
/// Messages up and down the ranks have a stream each: a rank that waits for one from above can
/// still send to it.
std::unique_ptr<Group> make_nccl_group(std::unique_ptr<Group> host, int device,
                                       const GroupOptions& options = {});

}  // namespace tailor::distributed
