#include "models/layers/kv_cache.hpp"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <algorithm>

// B blocks, K key heads, P positions of a block, H head width
namespace tailor::models {

KvCache::KvCache(std::int64_t num_blocks, std::int64_t block_size)
    : block_size_(block_size), num_owners_(static_cast<std::size_t>(num_blocks)) {
  TORCH_CHECK_VALUE(block_size > 0, "kv cache: blocks of ", block_size, " positions");
  for (auto block = num_blocks; block-- > 0;) free_.push_back(block);
}

std::int64_t KvCache::open() {
  if (free_slots_.empty()) {
    free_slots_.push_back(static_cast<std::int64_t>(slots_.size()));
    slots_.emplace_back();
  }
  const auto slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

std::int64_t KvCache::fork(std::int64_t slot, std::int64_t length) {
  const auto fresh = open();
  const auto& from = slots_[static_cast<std::size_t>(slot)];
  auto& to = slots_[static_cast<std::size_t>(fresh)];
  TORCH_CHECK_VALUE(blocks_of(length) <= static_cast<std::int64_t>(from.size()), "kv cache: slot ",
                    slot, " does not hold ", length, " positions");
  to.assign(from.begin(), from.begin() + blocks_of(length));
  for (const auto block : to) ++num_owners_[static_cast<std::size_t>(block)];
  return fresh;
}

void KvCache::close(std::int64_t slot) {
  auto& blocks = slots_[static_cast<std::size_t>(slot)];
  for (auto i = blocks.size(); i-- > 0;) drop(blocks[i]);
  blocks.clear();
  free_slots_.push_back(slot);
}

void KvCache::drop(std::int64_t block) {
  if (--num_owners_[static_cast<std::size_t>(block)] == 0) free_.push_back(block);
}

bool KvCache::reserve(std::int64_t slot, std::int64_t begin, std::int64_t end) {
  auto& blocks = slots_[static_cast<std::size_t>(slot)];
  const auto held = static_cast<std::int64_t>(blocks.size());
  const auto is_shared = [&](std::int64_t i) {
    return num_owners_[static_cast<std::size_t>(blocks[static_cast<std::size_t>(i)])] > 1;
  };
  const auto first = begin / block_size_, needed = blocks_of(end);
  auto missing = std::max<std::int64_t>(needed - held, 0);
  for (auto i = first; i < std::min(held, needed); ++i) missing += is_shared(i) ? 1 : 0;
  if (missing > num_free_blocks()) return false;

  const auto take = [&] {
    const auto block = free_.back();
    free_.pop_back();
    num_owners_[static_cast<std::size_t>(block)] = 1;
    return block;
  };
  for (auto i = first; i < std::min(held, needed); ++i) {
    if (!is_shared(i)) continue;
    auto& block = blocks[static_cast<std::size_t>(i)];
    const auto own = take();
    copy_block(block, own);
    drop(block);
    block = own;
  }
  for (auto i = held; i < needed; ++i) blocks.push_back(take());
  return true;
}

void KvCache::copy_block(std::int64_t from, std::int64_t to) {
  for (const auto& layer : layers_) {
    if (!layer.keys_BKPH.defined()) continue;
    layer.keys_BKPH[to].copy_(layer.keys_BKPH[from]);
    layer.values_BKPH[to].copy_(layer.values_BKPH[from]);
  }
}

const kernels::CacheBlocks& KvCache::layer(std::int64_t layer, std::int64_t num_key_heads,
                                           std::int64_t head_dim,
                                           const at::TensorOptions& options) {
  const auto i = static_cast<std::size_t>(layer);
  if (i >= layers_.size()) layers_.resize(i + 1);
  if (!layers_[i].keys_BKPH.defined())
    for (auto* tensor : {&layers_[i].keys_BKPH, &layers_[i].values_BKPH})
      *tensor = at::empty({num_blocks(), num_key_heads, block_size_, head_dim}, options);
  return layers_[i];
}

}  // namespace tailor::models
