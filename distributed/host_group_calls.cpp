// What a call is named, and whether all ranks make the same one.
#include <ATen/ops/empty.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <cstring>

#include "distributed/host_group.hpp"

namespace tailor::distributed {

Call HostGroup::begin(const char* what, const std::string& arguments) {
  Call call{place(c10::str(what, " #", ++num_calls_)), num_calls_};
  if (options_.check_calls && size_ > 1) compare({call.text, num_calls_, 2}, what + arguments);
  return call;
}

Call HostGroup::message(const char* what, const char* direction, int peer,
                        std::int64_t number) const {
  return {place(c10::str(what, " #", number, " ", direction, " rank ", peer)), number};
}

void HostGroup::compare(const Call& call, const std::string& signature) {
  constexpr std::int64_t kTextBytes = 128;  // more is cut
  auto texts = at::empty({size_ + 1, kTextBytes}, at::kByte).zero_();
  const auto bytes = writable_bytes_of(texts);
  const auto own = bytes.last(kTextBytes);
  std::memcpy(own.data(), signature.data(),
              std::min<std::size_t>(signature.size(), kTextBytes - 1));
  gather(call, own, bytes.first(bytes.size() - kTextBytes), {texts})->wait();
  const auto* text = texts.const_data_ptr<std::uint8_t>();
  for (int r = 0; r < size_; ++r) {
    const auto* other = text + r * kTextBytes;
    if (std::memcmp(other, own.data(), kTextBytes) == 0) continue;
    throw CommError(call.text + ": rank " + std::to_string(r) + " calls " +
                    reinterpret_cast<const char*>(other) + ", this one " + signature);
  }
}

void HostGroup::compare_splits(const Call& call, std::span<const std::int64_t> input_splits,
                               std::span<const std::int64_t> output_splits) {
  if (!options_.check_calls || size_ == 1) return;
  const auto counts = at::empty({2, size_}, at::kLong);
  auto* sent = counts.mutable_data_ptr<std::int64_t>();
  auto* coming = sent + size_;
  std::copy(input_splits.begin(), input_splits.end(), sent);
  std::copy(output_splits.begin(), output_splits.end(), coming);
  const std::vector<std::int64_t> ones(static_cast<std::size_t>(size_), 1);
  exchange({call.text, call.sequence, 3}, sources(counts[0], ones), targets(counts[1], ones),
           {counts})
      ->wait();
  for (int r = 0; r < size_; ++r) {
    const auto expected = output_splits[static_cast<std::size_t>(r)];
    if (coming[r] == expected) continue;
    throw CommError(call.text + ": rank " + std::to_string(r) + " sends " +
                    std::to_string(coming[r]) + " rows, " + std::to_string(expected) +
                    " are expected");
  }
}

void check_size(const Call& call, int from, std::size_t received, std::size_t expected) {
  if (received == expected) return;
  throw CommError(c10::str(call.text, ": rank ", from, " sent ", received, " bytes, ", expected,
                           " were expected"));
}

CommError no_answer(const Call& call, const std::vector<int>& ranks,
                    std::chrono::milliseconds timeout) {
  std::string text = call.text + ": no answer";
  if (!ranks.empty()) text += ranks.size() > 1 ? " from ranks" : " from rank";
  for (std::size_t i = 0; i < ranks.size(); ++i)
    text += (i > 0 ? ", " : " ") + std::to_string(ranks[i]);
  const double seconds = std::chrono::duration<double>(timeout).count();
  return CommError(c10::str(text, " within ", seconds, " s"));
}

std::string HostGroup::place(const std::string& what) const {
  return c10::str(what, " of group ", name_, ", rank ", rank_, " of ", size_);
}

}  // namespace tailor::distributed
