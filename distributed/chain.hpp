#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "distributed/group.hpp"

namespace tailor::distributed {

/// Steps that follow one another; each begins when the one before it is done.
class Chain final : public Pending::Work {
 public:
  using Step = std::function<std::unique_ptr<Work>()>;  // answers none when it is done at once
  explicit Chain(std::vector<Step> steps) : steps_(std::move(steps)) {}
  bool advance() override;
  void wait() override;

 private:
  void begin_next();

  std::vector<Step> steps_;  // kept to the end, since they hold the buffers
  std::size_t next_ = 0;
  std::unique_ptr<Work> current_;
};

/// Begins the steps; nothing is pending where they are done at once.
Pending run(std::vector<Chain::Step> steps);

}  // namespace tailor::distributed
