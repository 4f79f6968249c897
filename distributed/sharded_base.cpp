#include "distributed/sharded_base.hpp"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/Allocator.h>
#include <c10/util/Exception.h>
#include <c10/util/accumulate.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "models/layers/decoder.hpp"
#include "models/layers/grouped_linear.hpp"

namespace tailor::distributed {
namespace {

/// Matrices that one group divides: views of one storage, whose memory comes and goes beneath them.
class Flat {
 public:
  Flat() = default;
  explicit Flat(std::shared_ptr<Group> group) : group_(std::move(group)) {}

  void add(const models::NamedParameter& parameter) {
    auto shape = models::held_shape(parameter);
    const auto elements = c10::multiply_integers(shape);
    members_[parameter.value] = {.shape = std::move(shape), .begin = total_, .elements = elements};
    total_ += elements;
  }
  bool is_empty() const { return members_.empty() || group_->size() == 1; }

  /// Reads what this rank holds of one member. The first one makes every member a view of what is
  /// gathered.
  void take(at::Tensor* value, const models::ReadRows& read) {
    const auto& member = members_.at(value);
    const auto width = member.elements / member.shape.front();
    const auto part_begin = group_->rank() * part_elements();
    // Of the member's elements.
    const auto begin = std::clamp<std::int64_t>(part_begin - member.begin, 0, member.elements);
    const auto end = std::clamp<std::int64_t>(part_begin + part_elements() - member.begin, begin,
                                              member.elements);
    const auto first_row = begin / width;
    const auto rows = begin == end ? 0 : (end + width - 1) / width - first_row;
    const auto found = read(first_row, rows);
    if (!part_.defined()) make_memory(found.options());
    if (rows > 0)
      part_.narrow(0, member.begin + begin - part_begin, end - begin)
          .copy_(found.flatten().narrow(0, begin - first_row * width, end - begin));
  }

  /// Starts to gather, where nothing is there or under way.
  void start() {
    if (is_empty() || here_ || pending_) return;
    auto* storage = whole_.storage().unsafeGetStorageImpl();
    storage->set_data_ptr_noswap(storage->allocator()->allocate(bytes_));
    storage->set_nbytes(bytes_);
    pending_.emplace(group_->start_all_gather(whole_, part_));
  }

  void finish() {
    if (is_empty() || here_) return;
    start();
    pending_->wait();
    pending_.reset();
    here_ = true;
  }

  void drop() {
    if (is_empty()) return;
    if (pending_) finish();  // the memory is written to until then
    free_whole();
  }

 private:
  struct Member {
    std::vector<std::int64_t> shape;
    std::int64_t begin, elements;  // of the whole
  };

  std::int64_t part_elements() const {
    const std::int64_t size = group_->size();
    return (total_ + size - 1) / size;
  }

  void make_memory(const at::TensorOptions& options) {
    part_ = at::zeros({part_elements()}, options);
    whole_ = at::empty({part_elements() * group_->size()}, options);
    // Views outlive the memory, but cannot be made without it.
    for (const auto& [value, member] : members_)
      *value = whole_.narrow(0, member.begin, member.elements).view(member.shape);
    bytes_ = whole_.storage().nbytes();
    free_whole();
  }

  void free_whole() {
    auto* storage = whole_.storage().unsafeGetStorageImpl();
    storage->set_data_ptr_noswap(c10::DataPtr(nullptr, whole_.device()));
    storage->set_nbytes(0);
    here_ = false;
  }

  std::shared_ptr<Group> group_;
  std::map<at::Tensor*, Member> members_;
  std::int64_t total_ = 0;  // elements of all members
  at::Tensor whole_, part_;
  std::size_t bytes_ = 0;
  bool here_ = false;
  std::optional<Pending> pending_;
};

struct Layer {
  std::array<Flat, 2> flats;  // common, experts
};

class ShardedLayers final : public ShardedBase {
 public:
  ShardedLayers(models::Decoder& decoder, const std::shared_ptr<Group>& common,
                const std::shared_ptr<Group>& experts) {
    for (const auto& decoder_layer : decoder.layers()) {
      auto& layer = layers_.emplace_back();
      layer.flats = {Flat(common), Flat(experts)};
      const auto add = [&](models::Module& seat, std::size_t flat) {
        for (const auto& parameter : seat.parameters()) {
          if (parameter.shape.size() < 2) continue;
          layer.flats[flat].add(parameter);
          owner_[parameter.value] = {layers_.size() - 1, flat};
        }
      };
      for (const auto& seat : decoder_layer->slots()) add(*seat.slot, 0);
      for (const auto& seat : decoder_layer->grouped_slots()) add(*seat.slot, 1);
    }
  }

  bool take(const models::NamedParameter& parameter, const models::ReadRows& read) override {
    const auto owner = owner_.find(parameter.value);
    if (owner == owner_.end()) return false;
    auto& flat = layers_[owner->second.layer].flats[owner->second.flat];
    if (flat.is_empty()) return false;
    flat.take(parameter.value, read);
    return true;
  }

  void acquire(std::int64_t layer, Direction direction) override {
    const auto here = static_cast<std::size_t>(layer);
    for (auto& flat : layers_[here].flats) flat.finish();
    const bool forward = direction == Direction::Forward;
    if (forward ? here + 1 == layers_.size() : here == 0) return;
    for (auto& flat : layers_[forward ? here + 1 : here - 1].flats) flat.start();
  }

  void release(std::int64_t layer) override {
    for (auto& flat : layers_[static_cast<std::size_t>(layer)].flats) flat.drop();
  }

 private:
  struct Owner {
    std::size_t layer, flat;
  };
  std::vector<Layer> layers_;
  std::map<const at::Tensor*, Owner> owner_;
};

}  // namespace

std::shared_ptr<ShardedBase> shard_base(models::CausalLM& model, std::shared_ptr<Group> common,
                                        std::shared_ptr<Group> experts) {
  auto* decoder = model.decoder();
  TORCH_CHECK_VALUE(decoder != nullptr, model.shape().model_type, ": cannot be sharded");
  auto base = std::make_shared<ShardedLayers>(*decoder, common, experts);
  decoder->set_residency(base);
  return base;
}

}  // namespace tailor::distributed
