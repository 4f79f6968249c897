#include "models/kernels/cached_attention.hpp"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "models/kernels/lanes.hpp"
#include "models/kernels/plain.hpp"

// T tokens, N query heads, K key heads, G query heads a key head, B blocks, P positions of a block,
// H head width
namespace tailor::models::kernels {
namespace {

constexpr std::int64_t kTokensATask = 8;  // of one sequence: they share what they read

/// One token of one key head: G query rows against `length` keys.
template <typename Cache>
struct Query {
  const float* q;              // (G, H), scaled
  const Cache *keys, *values;  // of this head, in block 0
  const std::int64_t* blocks;
  std::int64_t block_size, block_stride;  // positions; elements between blocks
  std::int64_t length, head_dim;
  float* scores;  // (G, length), scratch
  float* out;     // (G, H)
};

/// The row of x at position c, which begins a block, and the block's end.
template <typename Cache>
[[gnu::always_inline]] inline const Cache* row_at(const Query<Cache>& query, const Cache* x,
                                                  std::int64_t c) {
  return x + query.blocks[c / query.block_size] * query.block_stride;
}
template <typename Cache>
[[gnu::always_inline]] inline std::int64_t end_of_block(const Query<Cache>& query, std::int64_t c) {
  return std::min(c + query.block_size, query.length);
}

/// scores[g][c] = q[g] . keys[c], kHeads query heads at a time.
template <int kLanes, int kHeads, typename Cache>
[[gnu::always_inline]] inline void score(const Query<Cache>& query, std::int64_t g) {
  const auto whole = query.head_dim - query.head_dim % kLanes;
  for (std::int64_t c = 0; c < query.length;) {
    const Cache* key = row_at(query, query.keys, c);
    for (const auto end = end_of_block(query, c); c < end; ++c, key += query.head_dim) {
      Lanes<kLanes> sums[kHeads] = {};
      for (std::int64_t h = 0; h < whole; h += kLanes) {
        Lanes<kLanes> k;
        load<kLanes>(key + h, k);
#pragma GCC unroll 4
        for (int head = 0; head < kHeads; ++head) {
          Lanes<kLanes> q;
          load<kLanes>(query.q + (g + head) * query.head_dim + h, q);
          sums[head] += q * k;
        }
      }
#pragma GCC unroll 4
      for (int head = 0; head < kHeads; ++head) {
        float total = sum<kLanes>(sums[head]);
        for (auto h = whole; h < query.head_dim; ++h)
          total += query.q[(g + head) * query.head_dim + h] * static_cast<float>(key[h]);
        query.scores[(g + head) * query.length + c] = total;
      }
    }
  }
}

/// Softmax of one row in place, without the division; answers 1 / sum.
template <int kLanes>
[[gnu::always_inline]] inline float soften(float* scores, std::int64_t length) {
  float largest = -std::numeric_limits<float>::infinity();
  for (std::int64_t c = 0; c < length; ++c) largest = std::max(largest, scores[c]);
  const auto whole = length - length % kLanes;
  Lanes<kLanes> sums{};
  for (std::int64_t c = 0; c < whole; c += kLanes) {
    Lanes<kLanes> s;
    load<kLanes>(scores + c, s);
    s -= largest;
    exp_negative<kLanes>(s);
    std::memcpy(scores + c, &s, sizeof(s));
    sums += s;
  }
  if (whole < length) {
    Lanes<kLanes> s = Lanes<kLanes>{} - 100.0F;
    const auto rest = static_cast<std::size_t>(length - whole) * sizeof(float);
    std::memcpy(&s, scores + whole, rest);
    for (std::int64_t c = 0; c < length - whole; ++c) s[c] -= largest;
    exp_negative<kLanes>(s);
    std::memcpy(scores + whole, &s, rest);
    sums += s;
  }
  return 1.0F / sum<kLanes>(sums);
}

/// out[g][h ...] = sum over c of scores[g][c] values[c][h ...], kHeads heads and kWidth registers
/// of a value at a time.
template <int kLanes, int kHeads, int kWidth, typename Cache>
[[gnu::always_inline]] inline void mix(const Query<Cache>& query, std::int64_t g, std::int64_t h,
                                       const float* scales) {
  Lanes<kLanes> sums[kHeads][kWidth] = {};
  for (std::int64_t c = 0; c < query.length;) {
    const Cache* value = row_at(query, query.values + h, c);
    for (const auto end = end_of_block(query, c); c < end; ++c, value += query.head_dim) {
      Lanes<kLanes> v[kWidth];
#pragma GCC unroll 4
      for (int w = 0; w < kWidth; ++w) load<kLanes>(value + w * kLanes, v[w]);
#pragma GCC unroll 4
      for (int head = 0; head < kHeads; ++head) {
        const float weight = query.scores[(g + head) * query.length + c];
#pragma GCC unroll 4
        for (int w = 0; w < kWidth; ++w) sums[head][w] += v[w] * weight;
      }
    }
  }
#pragma GCC unroll 4
  for (int head = 0; head < kHeads; ++head)
#pragma GCC unroll 4
    for (int w = 0; w < kWidth; ++w) {
      const Lanes<kLanes> y = sums[head][w] * scales[head];
      std::memcpy(query.out + (g + head) * query.head_dim + h + w * kLanes, &y, sizeof(y));
    }
}

/// One element of one head, where the head's width is no multiple of the registers'.
template <typename Cache>
[[gnu::always_inline]] inline void mix_one(const Query<Cache>& query, std::int64_t g,
                                           std::int64_t h, float scale) {
  float total = 0;
  for (std::int64_t c = 0; c < query.length;) {
    const Cache* value = row_at(query, query.values + h, c);
    for (const auto end = end_of_block(query, c); c < end; ++c, value += query.head_dim) {
      // Written out: a compiler that fuses product and sum here and there does so by the length of
      // a block.
      total = std::fma(query.scores[g * query.length + c], static_cast<float>(*value), total);
    }
  }
  query.out[g * query.head_dim + h] = total * scale;
}

template <int kLanes, int kHeads, typename Cache>
[[gnu::always_inline]] inline void attend_heads(const Query<Cache>& query, std::int64_t g) {
  score<kLanes, kHeads>(query, g);
  float scales[kHeads];
  for (int head = 0; head < kHeads; ++head)
    scales[head] = soften<kLanes>(query.scores + (g + head) * query.length, query.length);
  std::int64_t h = 0;
  for (; h + 4 * kLanes <= query.head_dim; h += 4 * kLanes)
    mix<kLanes, kHeads, 4>(query, g, h, scales);
  for (; h + kLanes <= query.head_dim; h += kLanes) mix<kLanes, kHeads, 1>(query, g, h, scales);
  for (; h < query.head_dim; ++h)
    for (int head = 0; head < kHeads; ++head) mix_one(query, g + head, h, scales[head]);
}

template <int kLanes, int kMaxHeads, typename Cache>
[[gnu::always_inline]] inline void attend(const Query<Cache>& query, std::int64_t num_heads) {
  std::int64_t g = 0;
  for (; g + kMaxHeads <= num_heads; g += kMaxHeads) attend_heads<kLanes, kMaxHeads>(query, g);
  for (; g < num_heads; ++g) attend_heads<kLanes, 1>(query, g);
}

template <typename Cache>
void portable(const Query<Cache>& query, std::int64_t num_heads) {
  attend<4, 1>(query, num_heads);
}
template <typename Cache>
[[gnu::target("avx2,fma")]] void avx2(const Query<Cache>& query, std::int64_t num_heads) {
  attend<8, 2>(query, num_heads);
}
template <typename Cache>
[[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")]] void avx512(
    const Query<Cache>& query, std::int64_t num_heads) {
  attend<16, 3>(query, num_heads);
}

/// A share of the work that one thread does: some tokens of one sequence and key head.
struct Task {
  const CachedSequence* sequence;
  std::int64_t key_head, begin, end;  // tokens, counted from the sequence's first new one
};

struct Shape {
  std::int64_t num_heads, num_key_heads, head_dim;
  std::int64_t group() const { return num_heads / num_key_heads; }
};

/// Floats of one thread: a token's scaled queries, scores and results.
struct Scratch {
  std::vector<float> q, scores, out;
};

template <typename Cache, typename X>
void run(const Task& task, const CacheBlocks& cache, const Shape& shape, const X* q, X* out,
         float scale, Isa isa, Scratch& scratch) {
  const auto& sequence = *task.sequence;
  const auto group = shape.group(), size = group * shape.head_dim;
  const auto& keys = cache.keys_BKPH;
  scratch.q.resize(static_cast<std::size_t>(size));
  scratch.out.resize(static_cast<std::size_t>(size));
  for (auto t = task.begin; t < task.end; ++t) {
    const auto row = (sequence.begin + t) * shape.num_heads * shape.head_dim + task.key_head * size;
    const auto length = sequence.start + t + 1;
    scratch.scores.resize(static_cast<std::size_t>(group * length));
    std::transform(q + row, q + row + size, scratch.q.begin(),
                   [scale](X x) { return static_cast<float>(x) * scale; });
    const Query<Cache> query{
        scratch.q.data(),
        keys.const_data_ptr<Cache>() + task.key_head * keys.stride(1),
        cache.values_BKPH.const_data_ptr<Cache>() + task.key_head * keys.stride(1),
        sequence.blocks.data(),
        keys.size(2),
        keys.stride(0),
        length,
        shape.head_dim,
        scratch.scores.data(),
        scratch.out.data()};
    if (isa == Isa::Portable)
      portable(query, group);
    else if (isa == Isa::Avx2)
      avx2(query, group);
    else
      avx512(query, group);
    std::transform(scratch.out.begin(), scratch.out.end(), out + row,
                   [](float y) { return static_cast<X>(y); });
  }
}

bool are_blocks(const CacheBlocks& cache) {
  const auto& keys = cache.keys_BKPH;
  const auto& values = cache.values_BKPH;
  return keys.dim() == 4 && keys.sizes() == values.sizes() && keys.is_contiguous() &&
         values.is_contiguous() && keys.scalar_type() == values.scalar_type() &&
         (keys.scalar_type() == at::kFloat || keys.scalar_type() == at::kBFloat16);
}

bool are_held(const CachedSequence& s, const CacheBlocks& cache) {
  const auto block_size = cache.keys_BKPH.size(2);
  return static_cast<std::int64_t>(s.blocks.size()) * block_size >= s.start + s.count &&
         std::ranges::all_of(s.blocks, [&](std::int64_t block) {
           return block >= 0 && block < cache.keys_BKPH.size(0);
         });
}

void check(const at::Tensor& x, const CacheBlocks& cache, std::span<const CachedSequence> sequences,
           const char* name) {
  TORCH_CHECK_VALUE(are_blocks(cache), name,
                    ": blocks of keys and values are (blocks, key heads, positions, width), "
                    "contiguous, both in float32 or bfloat16, found ",
                    cache.keys_BKPH.sizes(), " and ", cache.values_BKPH.sizes());
  TORCH_CHECK_VALUE(x.dim() == 3 && x.size(2) == cache.keys_BKPH.size(3) &&
                        (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16),
                    name, ": expected (tokens, heads, ", cache.keys_BKPH.size(3),
                    ") in float32 or bfloat16, found ", x.sizes(), " in ", x.scalar_type());
  for (const auto& s : sequences) {
    TORCH_CHECK_VALUE(
        s.begin >= 0 && s.count >= 0 && s.start >= 0 && s.begin + s.count <= x.size(0), name,
        ": rows ", s.begin, " to ", s.begin + s.count, " at position ", s.start, " of ", x.size(0),
        " rows");
    TORCH_CHECK_VALUE(are_held(s, cache), name, ": ", s.blocks.size(), " blocks of ",
                      cache.keys_BKPH.size(2), " positions do not hold ", s.start + s.count);
  }
}

void copy_rows(const at::Tensor& from_TKH, const at::Tensor& to_BKPH, const CachedSequence& s) {
  const auto head_dim = from_TKH.size(2), block_size = to_BKPH.size(2);
  const auto copy = [&]<typename From, typename To>(const From* from, To* to) {
    for (std::int64_t t = 0; t < s.count; ++t) {
      const auto position = s.start + t;
      const auto block = s.blocks[static_cast<std::size_t>(position / block_size)];
      for (std::int64_t head = 0; head < from_TKH.size(1); ++head) {
        const auto* source = from + (s.begin + t) * from_TKH.stride(0) + head * from_TKH.stride(1);
        auto* target = to + block * to_BKPH.stride(0) + head * to_BKPH.stride(1) +
                       position % block_size * head_dim;
        for (std::int64_t h = 0; h < head_dim; ++h)
          target[h] = static_cast<To>(static_cast<float>(source[h]));
      }
    }
  };
  const auto to_blocks = [&](const auto* from) {
    if (to_BKPH.scalar_type() == at::kFloat)
      copy(from, to_BKPH.data_ptr<float>());
    else
      copy(from, to_BKPH.data_ptr<c10::BFloat16>());
  };
  if (from_TKH.scalar_type() == at::kFloat)
    to_blocks(from_TKH.const_data_ptr<float>());
  else
    to_blocks(from_TKH.const_data_ptr<c10::BFloat16>());
}

/// Positions 0 ... length - 1 as one tensor (length, K, H), in float64.
at::Tensor gathered(const at::Tensor& x_BKPH, const CachedSequence& s, std::int64_t length) {
  std::vector<at::Tensor> blocks;
  for (const auto block : s.blocks) blocks.push_back(x_BKPH[block].transpose(0, 1));
  return at::cat(blocks).narrow(0, 0, length).to(at::kDouble);
}

}  // namespace

void append_to_cache(const at::Tensor& k_TKH, const at::Tensor& v_TKH, const CacheBlocks& cache,
                     std::span<const CachedSequence> sequences) {
  check(k_TKH, cache, sequences, "append_to_cache");
  check(v_TKH, cache, sequences, "append_to_cache");
  const auto num_key_heads = cache.keys_BKPH.size(1);
  TORCH_CHECK_VALUE(k_TKH.size(1) == num_key_heads && v_TKH.size(1) == num_key_heads,
                    "append_to_cache: ", k_TKH.size(1), " key heads, the blocks have ",
                    num_key_heads);
  if (!k_TKH.is_cpu()) return plain::append_to_cache(k_TKH, v_TKH, cache, sequences);
  const auto k = k_TKH.stride(2) == 1 ? k_TKH : k_TKH.contiguous();
  const auto v = v_TKH.stride(2) == 1 ? v_TKH : v_TKH.contiguous();
  for (const auto& sequence : sequences) {
    copy_rows(k, cache.keys_BKPH, sequence);
    copy_rows(v, cache.values_BKPH, sequence);
  }
}

at::Tensor cached_attention(const at::Tensor& q_TNH, const CacheBlocks& cache,
                            std::span<const CachedSequence> sequences, double scale, Isa isa) {
  check(q_TNH, cache, sequences, "cached_attention");
  const auto num_key_heads = cache.keys_BKPH.size(1);
  TORCH_CHECK_VALUE(num_key_heads > 0 && q_TNH.size(1) % num_key_heads == 0,
                    "cached_attention: ", q_TNH.size(1), " query heads do not share ",
                    num_key_heads, " key heads");
  if (!q_TNH.is_cpu()) return plain::cached_attention(q_TNH, cache, sequences, scale);
  const Shape shape{q_TNH.size(1), num_key_heads, q_TNH.size(2)};

  std::vector<Task> tasks;
  std::int64_t work = 0;  // elements of keys read
  for (const auto& sequence : sequences)
    for (std::int64_t head = 0; head < num_key_heads; ++head)
      for (std::int64_t t = 0; t < sequence.count; t += kTokensATask) {
        const auto end = std::min(t + kTokensATask, sequence.count);
        tasks.push_back({&sequence, head, t, end});
        work += (end - t) * (sequence.start + end) * shape.head_dim * shape.group();
      }
  const auto num_tasks = static_cast<std::int64_t>(tasks.size());
  const auto q = q_TNH.contiguous();
  auto out_TNH = at::empty(q.sizes(), q.options());
  const bool is_float = cache.keys_BKPH.scalar_type() == at::kFloat;
  constexpr std::int64_t kWorkAThread = 16384;  // below, waking a thread costs more
  const auto grain = 1 + kWorkAThread * num_tasks / (work + 1);
  const auto run_all = [&]<typename X>(const X* q_data, X* out) {
    at::parallel_for(0, num_tasks, grain, [&](std::int64_t begin, std::int64_t end) {
      Scratch scratch;
      for (auto i = begin; i < end; ++i) {
        const auto& task = tasks[static_cast<std::size_t>(i)];
        if (is_float)
          run<float>(task, cache, shape, q_data, out, static_cast<float>(scale), isa, scratch);
        else
          run<c10::BFloat16>(task, cache, shape, q_data, out, static_cast<float>(scale), isa,
                             scratch);
      }
    });
  };
  if (q.scalar_type() == at::kFloat)
    run_all(q.const_data_ptr<float>(), out_TNH.data_ptr<float>());
  else
    run_all(q.const_data_ptr<c10::BFloat16>(), out_TNH.data_ptr<c10::BFloat16>());
  return out_TNH;
}

at::Tensor cached_attention_reference(const at::Tensor& q_TNH, const CacheBlocks& cache,
                                      std::span<const CachedSequence> sequences, double scale) {
  auto out_TNH = at::empty(q_TNH.sizes(), q_TNH.options().dtype(at::kDouble));
  const auto num_key_heads = cache.keys_BKPH.size(1);
  for (const auto& s : sequences)
    for (std::int64_t t = 0; t < s.count; ++t) {
      const auto length = s.start + t + 1;
      const auto k_KHC = gathered(cache.keys_BKPH, s, length).permute({1, 2, 0});
      const auto v_KCH = gathered(cache.values_BKPH, s, length).transpose(0, 1);
      const auto q_KGH = q_TNH[s.begin + t].to(at::kDouble).unflatten(0, {num_key_heads, -1});
      const auto p_KGC = (at::matmul(q_KGH, k_KHC) * scale).softmax(-1);
      out_TNH[s.begin + t].copy_(at::matmul(p_KGC, v_KCH).flatten(0, 1));
    }
  return out_TNH;
}

}  // namespace tailor::models::kernels
