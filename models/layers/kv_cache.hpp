#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "models/kernels/cached_attention.hpp"

namespace tailor::models {

/// Keys and values of sequences being decoded: a value that callers own and pass in Batch. They lie
/// in blocks of block_size() positions, and a slot is the list of one sequence's blocks (Kwon et
/// al. 2023, arXiv:2309.06180): memory follows what sequences really hold, and sequences that begin
/// alike share their first blocks.
class KvCache {
 public:
  /// Memory of a block is touched, and so really taken, when it is first written to.
  explicit KvCache(std::int64_t num_blocks, std::int64_t block_size = kBlockSize);

  std::int64_t open();  // a slot without blocks
  /// A slot that shares what `slot` holds at the first `length` positions.
  std::int64_t fork(std::int64_t slot, std::int64_t length);
  void close(std::int64_t slot);  // its blocks are free unless others share them

  /// Makes positions begin ... end - 1 of the slot ready to be written, those before being there:
  /// takes blocks for what is new, copies a block that others share. False, and nothing has
  /// changed, where too few are free.
  bool reserve(std::int64_t slot, std::int64_t begin, std::int64_t end);

  std::int64_t block_size() const { return block_size_; }
  std::int64_t num_blocks() const { return static_cast<std::int64_t>(num_owners_.size()); }
  std::int64_t num_free_blocks() const { return static_cast<std::int64_t>(free_.size()); }
  std::int64_t blocks_of(std::int64_t length) const {  // that `length` positions fill
    return (length + block_size_ - 1) / block_size_;
  }
  /// Block i holds positions i block_size() and following.
  std::span<const std::int64_t> blocks(std::int64_t slot) const {
    return slots_[static_cast<std::size_t>(slot)];
  }

  /// One layer's blocks, made at the layer's first call: it knows how many heads this rank holds,
  /// their dtype and where they are computed.
  const kernels::CacheBlocks& layer(std::int64_t layer, std::int64_t num_key_heads,
                                    std::int64_t head_dim, const at::TensorOptions& options);

  static constexpr std::int64_t kBlockSize = 32;

 private:
  void copy_block(std::int64_t from, std::int64_t to);
  void drop(std::int64_t block);

  std::int64_t block_size_;
  std::vector<std::int64_t> num_owners_,
      free_;  // slots that hold a block; blocks, the last is next
  std::vector<std::vector<std::int64_t>> slots_;
  std::vector<std::int64_t> free_slots_;
  std::vector<kernels::CacheBlocks> layers_;
};

}  // namespace tailor::models
