#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/util/StringUtil.h>
#include <mpi.h>

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "distributed/host_group.hpp"
#include "distributed/mpi_check.hpp"

namespace tailor::distributed {

void check_mpi(int code, const std::string& call) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  throw CommError(call + ": " + std::string(text.data(), static_cast<std::size_t>(length)));
}

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMessageTag = 0;
// Every MPI has tags to 32767. A call's tag comes again only after thousands of others.
constexpr std::int64_t kNumCallTags = 32'000;

constexpr auto kEager = std::chrono::milliseconds(5);

int tag_of(const Call& call) {
  return 1 + static_cast<int>((call.sequence * kMaxSteps + call.step) % kNumCallTags);
}

/// The peer may need this core: first let it run, then leave it alone for a while, the longer the
/// longer nothing comes. A late answer is seen at most 2 % later.
void pause(Clock::duration idle) {
  using std::chrono::microseconds;
  if (idle < kEager) {
    std::this_thread::yield();
  } else {
    std::this_thread::sleep_for(
        std::clamp<Clock::duration>(idle / 64, microseconds(50), microseconds(1000)));
  }
}

/// Messages under way.
class Transfer final : public Pending::Work {
 public:
  using Held = std::vector<at::Tensor>;

  Transfer(MPI_Comm comm, Call call, Held held, const GroupOptions& options)
      : comm_(comm),
        call_(std::move(call)),
        held_(std::make_unique<Held>(std::move(held))),
        options_(options) {}
  ~Transfer() override {
    if (num_open_ > 0) lose();
  }
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;

  void send(std::span<const std::byte> bytes, int to, int tag) {
    each_piece(bytes, to, /*is_receive=*/false, [&](auto piece, int count, MPI_Request* request) {
      return MPI_Isend(piece, count, MPI_BYTE, to, tag, comm_, request);
    });
  }
  void receive(std::span<std::byte> bytes, int from, int tag) {
    each_piece(bytes, from, /*is_receive=*/true, [&](auto piece, int count, MPI_Request* request) {
      return MPI_Irecv(piece, count, MPI_BYTE, from, tag, comm_, request);
    });
  }
  /// `made` is held.
  void duplicate(MPI_Comm* made) {
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Comm_idup(comm_, made, &request), call_.text);
    add(request, {.peer = kNoPeer, .num_bytes = 0, .is_receive = false});
  }
  void broadcast(std::span<std::byte> bytes, int root) {
    each_piece(bytes, root, /*is_receive=*/false, [&](auto piece, int count, MPI_Request* request) {
      return MPI_Ibcast(piece, count, MPI_BYTE, root, comm_, request);
    });
  }

  bool advance() override {
    if (num_open_ == 0) return true;
    const auto num_requests = static_cast<int>(requests_.size());
    int num_done = 0;
    const int code =
        MPI_Testsome(num_requests, requests_.data(), &num_done, done_.data(), statuses_.data());
    if (code != MPI_ERR_IN_STATUS) check_mpi(code, call_.text);
    for (int i = 0; i < num_done; ++i) {
      const auto& status = statuses_[static_cast<std::size_t>(i)];
      if (code == MPI_ERR_IN_STATUS) check_mpi(status.MPI_ERROR, call_.text);
      const auto& piece = pieces_[static_cast<std::size_t>(done_[static_cast<std::size_t>(i)])];
      if (!piece.is_receive) continue;
      int received = 0;
      check_mpi(MPI_Get_count(&status, MPI_BYTE, &received), call_.text);
      check_size(call_, piece.peer, static_cast<std::size_t>(received), piece.num_bytes);
    }
    num_open_ -= num_done;
    if (num_done > 0) last_progress_ = Clock::now();
    return num_open_ == 0;
  }

  /// A blocking call would wait for a dead or stuck peer for ever.
  void wait() override {
    last_progress_ = Clock::now();
    while (!advance()) {
      const auto idle = Clock::now() - last_progress_;
      if (idle > kEager && options_.trouble) check_trouble();
      if (idle > options_.timeout) throw no_answer(call_, open_peers(), options_.timeout);
      pause(idle);
    }
  }

 private:
  /// MPI may still write: better to lose the memory, on the way out, than to have it corrupted. The
  /// list keeps a pointer to it, which tells it from a leak.
  void lose() noexcept {
    static auto& lost = *new std::vector<std::unique_ptr<Held>>;
    static auto& mutex = *new std::mutex;
    const std::scoped_lock lock(mutex);
    try {
      lost.push_back(std::move(held_));
    } catch (const std::bad_alloc&) {
      static_cast<void>(held_.release());
    }
  }

  static constexpr int kNoPeer = -1;  // of a call that waits for all
  struct Piece {
    int peer;
    std::size_t num_bytes;
    bool is_receive;
  };

  void add(MPI_Request request, const Piece& piece) {
    requests_.push_back(request);
    pieces_.push_back(piece);
    num_open_ = static_cast<int>(requests_.size());
    done_.resize(requests_.size());
    statuses_.resize(requests_.size());
  }

  template <typename Byte, typename Start>
  void each_piece(std::span<Byte> bytes, int peer, bool is_receive, const Start& start) {
    while (!bytes.empty()) {
      const auto count =
          std::min(bytes.size(), static_cast<std::size_t>(options_.max_message_bytes));
      MPI_Request request = MPI_REQUEST_NULL;
      check_mpi(start(bytes.data(), static_cast<int>(count), &request), call_.text);
      add(request, {peer, count, is_receive});
      bytes = bytes.subspan(count);
    }
  }

  void check_trouble() const {
    const auto text = options_.trouble();
    if (!text.empty()) throw CommError(call_.text + ": " + text);
  }

  std::vector<int> open_peers() const {
    std::vector<int> out;
    for (std::size_t i = 0; i < requests_.size(); ++i)
      if (requests_[i] != MPI_REQUEST_NULL && pieces_[i].peer != kNoPeer)
        out.push_back(pieces_[i].peer);
    std::sort(out.begin(), out.end());
    out.erase(std::unique(out.begin(), out.end()), out.end());
    return out;
  }

  MPI_Comm comm_;
  Call call_;
  std::unique_ptr<Held> held_;
  const GroupOptions& options_;  // of the group, which outlives its calls
  std::vector<MPI_Request> requests_;
  std::vector<Piece> pieces_;  // of the requests
  std::vector<int> done_;      // filled by MPI_Testsome, as statuses_
  std::vector<MPI_Status> statuses_;
  int num_open_ = 0;
  Clock::time_point last_progress_ = Clock::now();
};

int rank_in(MPI_Comm comm) {
  int rank = 0;
  check_mpi(MPI_Comm_rank(comm, &rank), "MPI_Comm_rank");
  return rank;
}

int size_of(MPI_Comm comm) {
  int size = 0;
  check_mpi(MPI_Comm_size(comm, &size), "MPI_Comm_size");
  return size;
}

class MpiGroup final : public HostGroup {
 public:
  /// Takes ownership of `comm`.
  MpiGroup(MPI_Comm comm, std::string name, const GroupOptions& options)
      : HostGroup(rank_in(comm), size_of(comm), std::move(name), options), comm_(comm) {
    // MPI's default is to abort inside the failing call, which makes every check dead code.
    check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  }
  ~MpiGroup() override {
    int is_finished = 0;
    MPI_Finalized(&is_finished);
    if (is_finished == 0) MPI_Comm_free(&comm_);  // what is under way goes on
  }

 protected:
  std::unique_ptr<Work> exchange(const Call& call, std::vector<Source> sources,
                                 std::vector<Target> targets, Held held) override {
    auto transfer = start(call, std::move(held));
    // From the next rank on, so that not all of them send to the same one first.
    for (int i = 1; i < size(); ++i) {
      const int from = (rank() + size() - i) % size();
      transfer->receive(targets[static_cast<std::size_t>(from)], from, tag_of(call));
    }
    for (int i = 1; i < size(); ++i) {
      const int to = (rank() + i) % size();
      transfer->send(sources[static_cast<std::size_t>(to)], to, tag_of(call));
    }
    return transfer;
  }
  std::unique_ptr<Work> broadcast(const Call& call, Target bytes, int root, Held held) override {
    auto transfer = start(call, std::move(held));
    transfer->broadcast(bytes, root);
    return transfer;
  }
  std::unique_ptr<Work> send(const Call& call, Source bytes, int to, Held held) override {
    auto transfer = start(call, std::move(held));
    transfer->send(bytes, to, kMessageTag);
    return transfer;
  }
  std::unique_ptr<Work> recv(const Call& call, Target bytes, int from, Held held) override {
    auto transfer = start(call, std::move(held));
    transfer->receive(bytes, from, kMessageTag);
    return transfer;
  }
  std::unique_ptr<Group> make_part(const Call& call, int color, int part_rank,
                                   const std::vector<int>& /*members*/,
                                   const std::string& part_name) override {
    // MPI_Comm_split has no time limit. All have come, but who stopped while it waited for a late
    // rank has told its color before; here it is missed.
    const auto signs = at::zeros({size() + 1}, at::kByte);
    const auto bytes = writable_bytes_of(signs);
    gather(call, bytes.last(1), bytes.first(bytes.size() - 1), {signs})->wait();
    MPI_Comm part = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split(comm_, color, part_rank, &part), call.text);
    return std::make_unique<MpiGroup>(part, part_name, options());
  }

 private:
  std::unique_ptr<Transfer> start(const Call& call, Held held) const {
    return std::make_unique<Transfer>(comm_, call, std::move(held), options());
  }

  MPI_Comm comm_;
};

}  // namespace

std::unique_ptr<Group> make_mpi_group(const GroupOptions& options) {
  const int rank = rank_in(MPI_COMM_WORLD), size = size_of(MPI_COMM_WORLD);
  const Call call{c10::str("dup #0 of group world, rank ", rank, " of ", size)};
  // In tensors, which outlive a wait that fails. A sign from each rank tells who has not come.
  const auto signs = at::zeros({size + 1}, at::kByte);
  const auto made = at::empty({static_cast<std::int64_t>(sizeof(MPI_Comm))}, at::kByte);
  auto* comm = static_cast<MPI_Comm*>(made.mutable_data_ptr());
  Transfer transfer(MPI_COMM_WORLD, call, {signs, made}, options);
  for (int peer = 0; peer < size; ++peer) {
    if (peer == rank) continue;
    const auto bytes = writable_bytes_of(signs);
    transfer.receive(bytes.subspan(static_cast<std::size_t>(peer), 1), peer, kMessageTag);
    transfer.send(bytes.last(1), peer, kMessageTag);
  }
  transfer.duplicate(comm);  // our own, so that our handler and messages never meet another's
  transfer.wait();
  return std::make_unique<MpiGroup>(*comm, "world", options);
}

}  // namespace tailor::distributed
