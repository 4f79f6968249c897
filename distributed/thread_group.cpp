#include "distributed/thread_group.hpp"

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include <condition_variable>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>
#include <thread>
#include <tuple>
#include <utility>

#include "distributed/host_group.hpp"

namespace tailor::distributed {
namespace {

using Clock = std::chrono::steady_clock;

/// Of a message: the group, the call with its step, or -1 for send and recv, sender and receiver.
using Address = std::tuple<std::string, std::int64_t, int, int, int>;
constexpr int kMessage = -1;

std::string reason(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const c10::Error& e) {
    return e.what_without_backtrace();
  } catch (const std::exception& e) {
    return e.what();
  } catch (...) {
    return "an error of unknown type";
  }
}

/// What the ranks of one run share.
struct Mailbox {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<Address, std::vector<std::byte>> messages;
  std::vector<bool> has_ended;          // by rank of the world
  std::exception_ptr first_error;       // what was thrown first
  std::optional<std::string> released;  // why nobody waits any more

  explicit Mailbox(int num_ranks) : has_ended(static_cast<std::size_t>(num_ranks)) {}

  void put(const Address& address, std::span<const std::byte> bytes) {
    const std::lock_guard lock(mutex);
    messages[address].assign(bytes.begin(), bytes.end());
    changed.notify_all();
  }
  void end(int rank, const std::exception_ptr& error) {
    const std::lock_guard lock(mutex);
    has_ended[static_cast<std::size_t>(rank)] = true;
    if (error && !first_error) {
      first_error = error;
      released = "rank " + std::to_string(rank) + " failed: " + reason(error);
    }
    changed.notify_all();
  }
};

struct Incoming {
  Address address;
  std::span<std::byte> target;
  int from, world_from;
};

class Receive final : public Pending::Work {
 public:
  Receive(Mailbox& mailbox, Call call, std::vector<Incoming> incoming,
          std::chrono::milliseconds timeout)
      : mailbox_(mailbox),
        call_(std::move(call)),
        incoming_(std::move(incoming)),
        timeout_(timeout) {}

  bool advance() override {
    const std::lock_guard lock(mailbox_.mutex);
    return take();
  }
  void wait() override {
    std::unique_lock lock(mailbox_.mutex);
    if (mailbox_.changed.wait_until(lock, Clock::now() + timeout_, [this] { return take(); }))
      return;
    std::vector<int> missing;
    for (const auto& message : incoming_) missing.push_back(message.from);
    throw no_answer(call_, missing, timeout_);
  }

 private:
  /// Takes what has come, under the lock; true: all has.
  bool take() {
    std::erase_if(incoming_, [this](const Incoming& message) { return take(message); });
    if (incoming_.empty()) return true;
    if (mailbox_.released) throw CommError(call_.text + ": " + *mailbox_.released);
    for (const auto& message : incoming_) {
      if (mailbox_.has_ended[static_cast<std::size_t>(message.world_from)])
        throw CommError(call_.text + ": rank " + std::to_string(message.from) + " has ended");
    }
    return false;
  }
  bool take(const Incoming& message) {
    const auto found = mailbox_.messages.find(message.address);
    if (found == mailbox_.messages.end()) return false;
    const auto bytes = std::move(found->second);
    mailbox_.messages.erase(found);
    check_size(call_, message.from, bytes.size(), message.target.size());
    if (!bytes.empty()) std::memcpy(message.target.data(), bytes.data(), bytes.size());
    return true;
  }

  Mailbox& mailbox_;
  Call call_;
  std::vector<Incoming> incoming_;
  std::chrono::milliseconds timeout_;
};

class ThreadGroup final : public HostGroup {
 public:
  /// `world_ranks`: of the ranks of this group. `id` differs from that of every other group.
  ThreadGroup(Mailbox& mailbox, std::string id, int rank, std::vector<int> world_ranks,
              std::string name, const GroupOptions& options)
      : HostGroup(rank, static_cast<int>(world_ranks.size()), std::move(name), options),
        mailbox_(mailbox),
        id_(std::move(id)),
        world_ranks_(std::move(world_ranks)) {}

 protected:
  std::unique_ptr<Work> exchange(const Call& call, std::vector<Source> sources,
                                 std::vector<Target> targets, Held /*held*/) override {
    std::vector<Incoming> incoming;
    for (int r = 0; r < size(); ++r) {
      if (r == rank()) continue;
      mailbox_.put(address(call, rank(), r), sources[static_cast<std::size_t>(r)]);
      incoming.push_back(expect(call, r, targets[static_cast<std::size_t>(r)]));
    }
    return receive(call, std::move(incoming));
  }
  std::unique_ptr<Work> broadcast(const Call& call, Target bytes, int root,
                                  Held /*held*/) override {
    if (rank() != root) return receive(call, {expect(call, root, bytes)});
    for (int r = 0; r < size(); ++r)
      if (r != root) mailbox_.put(address(call, root, r), bytes);
    return receive(call, {});
  }
  std::unique_ptr<Work> send(const Call& call, Source bytes, int to, Held /*held*/) override {
    mailbox_.put({id_, call.sequence, kMessage, rank(), to}, bytes);
    return receive(call, {});
  }
  std::unique_ptr<Work> recv(const Call& call, Target bytes, int from, Held /*held*/) override {
    auto message = expect(call, from, bytes);
    message.address = {id_, call.sequence, kMessage, from, rank()};
    return receive(call, {message});
  }
  std::unique_ptr<Group> make_part(const Call& call, int color, int part_rank,
                                   const std::vector<int>& members,
                                   const std::string& part_name) override {
    std::vector<int> world_ranks;
    world_ranks.reserve(members.size());
    for (const int member : members)
      world_ranks.push_back(world_ranks_[static_cast<std::size_t>(member)]);
    const auto id = id_ + "/" + std::to_string(call.sequence) + ":" + std::to_string(color);
    return std::make_unique<ThreadGroup>(mailbox_, id, part_rank, world_ranks, part_name,
                                         options());
  }

 private:
  Address address(const Call& call, int from, int to) const {
    return {id_, call.sequence, call.step, from, to};
  }
  Incoming expect(const Call& call, int from, Target target) const {
    return {address(call, from, rank()), target, from,
            world_ranks_[static_cast<std::size_t>(from)]};
  }
  std::unique_ptr<Work> receive(const Call& call, std::vector<Incoming> incoming) const {
    return std::make_unique<Receive>(mailbox_, call, std::move(incoming), options().timeout);
  }

  Mailbox& mailbox_;
  std::string id_;
  std::vector<int> world_ranks_;
};

}  // namespace

void run_thread_ranks(int num_ranks, const std::function<void(Group&)>& body,
                      const GroupOptions& options) {
  TORCH_CHECK_VALUE(num_ranks > 0, "run_thread_ranks: ", num_ranks, " ranks");
  Mailbox mailbox(num_ranks);
  std::vector<int> world_ranks(static_cast<std::size_t>(num_ranks));
  std::iota(world_ranks.begin(), world_ranks.end(), 0);
  std::vector<std::thread> threads;
  threads.reserve(world_ranks.size());
  for (int r = 0; r < num_ranks; ++r) {
    threads.emplace_back([&, r] {
      std::exception_ptr error;
      try {
        at::set_num_threads(1);
        ThreadGroup group(mailbox, "", r, world_ranks, "world", options);
        body(group);
      } catch (...) {
        error = std::current_exception();
      }
      mailbox.end(r, error);
    });
  }
  for (auto& thread : threads) thread.join();
  if (mailbox.first_error) std::rethrow_exception(mailbox.first_error);
}

}  // namespace tailor::distributed
