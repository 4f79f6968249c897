#include "distributed/peer_watch.hpp"

#include <ATen/ops/empty.h>
#include <arpa/inet.h>
#include <c10/util/StringUtil.h>
#include <netdb.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <random>
#include <system_error>

namespace tailor::distributed {
namespace {

using Clock = std::chrono::steady_clock;

/// Where a rank listens, as it tells the others.
struct Listener {
  std::array<char, 256> host{};
  std::uint16_t port = 0;  // network byte order
  std::uint64_t token = 0;
};

struct Sign {
  std::uint64_t token;  // of the sender, so that strangers are not heard
  std::uint32_t is_last;
};

sockaddr_in address_of(const Listener& peer, const Listener& own) {
  sockaddr_in out{};
  out.sin_family = AF_INET;
  out.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  out.sin_port = peer.port;
  if (peer.host == own.host) return out;
  addrinfo hints{}, *found = nullptr;
  hints.ai_family = AF_INET;
  if (getaddrinfo(peer.host.data(), nullptr, &hints, &found) != 0) return out;  // is never heard
  std::memcpy(&out.sin_addr, &reinterpret_cast<const sockaddr_in*>(found->ai_addr)->sin_addr,
              sizeof out.sin_addr);
  freeaddrinfo(found);
  return out;
}

}  // namespace

struct PeerWatch::Link {
  Link() {
    socket_address.sin_family = AF_INET;
    socklen_t size = sizeof socket_address;
    if (socket < 0 || wake < 0 || bind(socket, as_address(socket_address), size) != 0 ||
        getsockname(socket, as_address(socket_address), &size) != 0)
      throw std::system_error(errno, std::generic_category(), "cannot open a UDP socket");
  }
  ~Link() {
    close(socket);
    close(wake);
  }
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  static sockaddr* as_address(sockaddr_in& address) {
    return reinterpret_cast<sockaddr*>(&address);
  }
  void send(bool is_last) {
    const Sign sign{own.token, is_last ? 1U : 0U};
    sendto(socket, &sign, sizeof sign, MSG_DONTWAIT, as_address(next_address), sizeof next_address);
  }
  /// The last sign of the rank before that has come; none where none has.
  bool receive(Sign& sign) {
    bool has_come = false;
    for (Sign one{}; recv(socket, &one, sizeof one, MSG_DONTWAIT) == sizeof one;) {
      if (one.token != before.token) continue;
      sign = one;
      has_come = true;
    }
    return has_come;
  }

  int socket = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  int wake = eventfd(0, EFD_CLOEXEC);  // ends the thread
  sockaddr_in socket_address{}, next_address{};
  Listener own, before;
  int rank_before = 0;
};

PeerWatch::PeerWatch(std::chrono::milliseconds limit) : limit_(limit) {}

PeerWatch::~PeerWatch() {
  if (!thread_.joinable()) return;
  const std::uint64_t one = 1;
  static_cast<void>(!write(link_->wake, &one, sizeof one));
  thread_.join();
}

void PeerWatch::start(Group& host) {
  if (host.size() == 1) return;
  auto link = std::make_unique<Link>();
  gethostname(link->own.host.data(), link->own.host.size() - 1);
  link->own.port = link->socket_address.sin_port;
  std::random_device random;
  link->own.token = (std::uint64_t{random()} << 32) | random();

  auto bytes = at::empty({1, static_cast<std::int64_t>(sizeof(Listener))}, at::kByte);
  std::memcpy(bytes.mutable_data_ptr(), &link->own, sizeof(Listener));
  const auto all = host.all_gather(bytes);
  const auto* listeners = static_cast<const Listener*>(all.const_data_ptr());
  const int R = host.size();
  link->rank_before = (host.rank() + R - 1) % R;
  link->before = listeners[link->rank_before];
  link->next_address = address_of(listeners[(host.rank() + 1) % R], link->own);
  link_ = std::move(link);
  thread_ = std::thread([this] { watch(); });
}

std::string PeerWatch::trouble() const {
  if (!is_silent_.load()) return "";
  const double seconds = std::chrono::duration<double>(limit_).count();
  return c10::str("rank ", link_->rank_before, " of the job has given no sign of life for ",
                  seconds, " s");
}

void PeerWatch::watch() {
  const auto interval = std::clamp<std::chrono::milliseconds>(
      limit_ / 10, std::chrono::milliseconds(10), std::chrono::seconds(1));
  bool is_known = false;  // the rank before has been heard and has not said good-bye
  auto last_sign = Clock::now(), last_round = last_sign;
  while (true) {
    link_->send(/*is_last=*/false);
    // Not woken by signs: one look in an interval is enough.
    pollfd wake{link_->wake, POLLIN, 0};
    if (poll(&wake, 1, static_cast<int>(interval.count())) > 0) break;
    const auto now = Clock::now();
    Sign sign{};
    if (link_->receive(sign)) {
      is_known = sign.is_last == 0;
      last_sign = now;
    }
    // Who was stopped itself knows nothing about the others.
    if (now - last_round > limit_ / 2) last_sign = now;
    last_round = now;
    is_silent_.store(is_known && now - last_sign > limit_);
  }
  link_->send(/*is_last=*/true);
}

}  // namespace tailor::distributed
