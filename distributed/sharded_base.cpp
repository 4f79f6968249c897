#include "distributed/sharded_base.hpp"

#include <ATen/ops/empty.h>
#include <c10/core/Allocator.h>
#include <c10/util/Exception.h>

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

  void add(at::Tensor* member) { members_.push_back(member); }
  bool is_empty() const { return members_.empty() || group_->size() == 1; }
  const std::vector<at::Tensor*>& members() const { return members_; }

  /// All members hold what was read: packs them and keeps this rank's part alone.
  void divide() {
    std::int64_t total = 0;
    for (const auto* member : members_) total += member->numel();
    const std::int64_t size = group_->size();
    part_elements_ = (total + size - 1) / size;
    const auto options = members_.front()->options();
    whole_ = at::empty({part_elements_ * size}, options);
    std::int64_t begin = 0;
    for (auto* member : members_) {
      auto view = whole_.narrow(0, begin, member->numel()).view(member->sizes());
      view.copy_(*member);
      begin += member->numel();
      *member = view;
    }
    part_ = whole_.narrow(0, group_->rank() * part_elements_, part_elements_).clone();
    bytes_ = whole_.storage().nbytes();
    drop();
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
    auto* storage = whole_.storage().unsafeGetStorageImpl();
    storage->set_data_ptr_noswap(c10::DataPtr(nullptr, whole_.device()));
    storage->set_nbytes(0);
    here_ = false;
  }

 private:
  std::shared_ptr<Group> group_;
  std::vector<at::Tensor*> members_;
  at::Tensor whole_, part_;
  std::int64_t part_elements_ = 0;
  std::size_t bytes_ = 0;
  bool here_ = false;
  std::optional<Pending> pending_;
};

struct Layer {
  std::array<Flat, 2> flats;  // common, experts
  std::size_t missing = 0;    // matrices that are not read yet
};

class ShardedLayers final : public ShardedBase {
 public:
  ShardedLayers(models::Decoder& decoder, const std::shared_ptr<Group>& common,
                const std::shared_ptr<Group>& experts) {
    for (const auto& decoder_layer : decoder.layers()) {
      auto& layer = layers_.emplace_back();
      layer.flats = {Flat(common), Flat(experts)};
      const auto add = [&](models::Module& seat, Flat& flat) {
        for (const auto& parameter : seat.parameters()) {
          if (parameter.shape.size() < 2) continue;
          flat.add(parameter.value);
          owner_[parameter.value] = layers_.size() - 1;
          ++layer.missing;
        }
      };
      for (const auto& seat : decoder_layer->slots()) add(*seat.slot, layer.flats[0]);
      for (const auto& seat : decoder_layer->grouped_slots()) add(*seat.slot, layer.flats[1]);
    }
  }

  void loaded(const models::NamedParameter& parameter) override {
    const auto owner = owner_.find(parameter.value);
    if (owner == owner_.end()) return;
    auto& layer = layers_[owner->second];
    if (--layer.missing > 0) return;
    for (auto& flat : layer.flats)
      if (!flat.is_empty()) flat.divide();
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
  std::vector<Layer> layers_;
  std::map<const at::Tensor*, std::size_t> owner_;
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
