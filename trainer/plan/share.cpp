#include "trainer/plan/share.hpp"

#include <algorithm>

namespace tailor::trainer::plan {
namespace {

/// Copies of a projection on one rank.
std::int64_t local_copies(const Projection& p, const Layout& layout) {
  return p.part == Part::RoutedExperts ? p.copies / layout.ep : p.copies;
}

/// Rows of the busiest rank over the mean. A rank with all experts has them all.
double imbalance(const Projection& p, const Workload& workload, const Layout& layout) {
  return p.part == Part::RoutedExperts && layout.ep > 1 ? workload.expert_imbalance : 1.0;
}

void add_weights(const Projection& p, const Layout& layout, Share& out) {
  const auto parts = p.split == Split::None ? 1 : layout.tp;
  const auto bias = p.bias ? (p.split == Split::Column ? p.out / parts : p.out) : 0;
  const auto values = (p.in * p.out / parts + bias) * local_copies(p, layout);
  (p.part == Part::RoutedExperts ? out.expert_weights : out.dense_weights) += values;
  if (p.part != Part::RoutedExperts) out.whole_weights += bias * local_copies(p, layout);
}

/// Column: A whole, B cut by rows. Row: A cut by columns, B whole.
void add_adapter(const Projection& p, const Factors& f, const Layout& layout, Share& out) {
  const bool experts = p.part == Part::RoutedExperts;
  const auto add = [&](std::int64_t copies, std::int64_t width, bool cut) {
    const bool own = experts && copies == p.copies && p.copies > 1;  // one for each expert
    const auto local = own ? copies / layout.ep : copies;
    const auto values = f.rank * local * (cut ? width / layout.tp : width);
    (own ? out.expert_adapter : out.adapter) += values;
    if (!cut) out.adapter_whole_over_tp += values;
    out.num_adapter_tensors += local;
  };
  add(f.a, p.in, p.split == Split::Row);
  add(f.b, p.out, p.split == Split::Column);
}

/// What a rank computes with, and on.
struct Machine {
  const ClusterSpec& cluster;
  const Workload& workload;

  double seconds(double flops, double values) const {
    const double bytes = values * static_cast<double>(workload.value_bytes);
    return std::max(flops / cluster.flops, bytes / cluster.memory_bandwidth);
  }
};

/// `rows` a token.
void add_products(const Projection& p, const Factors& f, double rows, const Layout& layout,
                  const Machine& machine, Share& out) {
  const double parts = static_cast<double>(p.split == Split::None ? 1 : layout.tp);
  const double in = static_cast<double>(p.in) / (p.split == Split::Row ? parts : 1.0);
  const double width = static_cast<double>(p.out) / (p.split == Split::Column ? parts : 1.0);
  const double tokens = static_cast<double>(machine.workload.micro_batch_tokens());
  const double copies = static_cast<double>(local_copies(p, layout));
  const double base = 2.0 * rows * in * width;
  const double moved = tokens * rows * (in + width);
  const double base_s = machine.seconds(tokens * base, moved + copies * in * width);
  out.forward_flops += base;
  out.backward_flops += base;
  out.forward_s += base_s;
  out.backward_s += base_s;
  if (f.a == 0) return;
  const double lora = 2.0 * rows * static_cast<double>(f.rank) * (in + width);
  const double lora_s = machine.seconds(tokens * lora, moved);
  out.forward_flops += lora;
  out.backward_flops += 2.0 * lora;
  out.forward_s += lora_s;
  out.backward_s += 2.0 * lora_s;
}

double attention_values(const Architecture& a, double tp) {
  const double heads = static_cast<double>(a.num_attention_heads);
  const double key_heads = static_cast<double>(a.num_key_value_heads);
  const double qk = static_cast<double>(a.query_key_dim()), v = static_cast<double>(a.value_dim());
  const double queries_and_keys = (heads + key_heads) * qk / tp;
  double out = queries_and_keys + (heads + key_heads) * v / tp;  // q, k, v and attention's output
  if (a.qk_norm != Architecture::QkNorm::None) out += queries_and_keys;
  if (a.latent_attention()) {
    out += 2.0 * static_cast<double>(a.q_lora_rank + a.kv_lora_rank);  // before and after norms
    out += heads * static_cast<double>(a.qk_nope_head_dim) / tp;  // k before its rotary part joins
  }
  return out;
}

double saved_values(const Architecture& a, const Workload& workload, const Layout& layout,
                    const std::vector<Projection>& layer) {
  const double tp = static_cast<double>(layout.tp), h = static_cast<double>(a.hidden_size);
  double out = 4.0 * h + attention_values(a, tp);  // residual stream and norms, twice
  for (const auto& p : layer) {
    if (p.part == Part::Attention || p.split != Split::Row) continue;  // a down projection a MLP
    const double rows = static_cast<double>(p.active) * imbalance(p, workload, layout);
    out += rows * 3.0 * static_cast<double>(p.in) / tp;
    if (p.part == Part::RoutedExperts) out += rows * 2.0 * h + static_cast<double>(p.copies);
  }
  return out;
}

}  // namespace

Share& Share::operator+=(const Share& other) {
  dense_weights += other.dense_weights;
  expert_weights += other.expert_weights;
  whole_weights += other.whole_weights;
  adapter += other.adapter;
  expert_adapter += other.expert_adapter;
  adapter_whole_over_tp += other.adapter_whole_over_tp;
  num_adapter_tensors += other.num_adapter_tensors;
  saved_values += other.saved_values;
  forward_flops += other.forward_flops;
  backward_flops += other.backward_flops;
  forward_s += other.forward_s;
  backward_s += other.backward_s;
  return *this;
}

Share layer_share(const Architecture& a, const AdapterSpec& adapter, const ClusterSpec& cluster,
                  const Workload& workload, const Layout& layout, std::int64_t layer) {
  constexpr double kScoresBackward = 2.5;
  Share out;
  const auto all = projections(a, layer);
  for (const auto& p : all) {
    const auto f = factors(p, a, adapter);
    const double rows = static_cast<double>(p.active) * imbalance(p, workload, layout);
    add_weights(p, layout, out);
    if (f.a > 0) add_adapter(p, f, layout, out);
    add_products(p, f, rows, layout, {cluster, workload}, out);
    out.saved_values += rows * static_cast<double>(f.a > 0 ? f.rank : 0);
  }
  const auto extras = layer_extras(a, layer);
  out.dense_weights += extras.norms + extras.router + extras.shared_gate;
  out.whole_weights += extras.norms + extras.router;
  const double router = 2.0 * static_cast<double>(extras.router + extras.shared_gate);
  const double scores = static_cast<double>(a.num_attention_heads) /
                        static_cast<double>(layout.tp) *
                        static_cast<double>(a.query_key_dim() + a.value_dim()) *
                        static_cast<double>(workload.max_length);
  const double forward = router + scores, backward = router + kScoresBackward * scores;
  const double per_flop = static_cast<double>(workload.micro_batch_tokens()) / cluster.flops;
  out.forward_flops += forward;
  out.backward_flops += backward;
  out.forward_s += forward * per_flop;
  out.backward_s += backward * per_flop;
  out.saved_values += saved_values(a, workload, layout, all);
  return out;
}

Share embedding_share(const Architecture& a, const Layout& layout) {
  Share out;
  out.dense_weights = a.vocab_size * a.hidden_size / layout.tp;
  out.whole_weights = out.dense_weights;
  return out;
}

Share head_share(const Architecture& a, const AdapterSpec& adapter, const ClusterSpec& cluster,
                 const Workload& workload, const Layout& layout) {
  Share out;
  const Projection head{.name = "lm_head",
                        .in = a.hidden_size,
                        .out = a.vocab_size,
                        .part = Part::DenseMlp,
                        .split = Split::Column};
  const auto f = factors(head, a, adapter);
  if (!a.tie_word_embeddings || layout.pp > 1) add_weights(head, layout, out);
  if (f.a > 0) add_adapter(head, f, layout, out);
  add_products(head, f, 1.0, layout, {cluster, workload}, out);
  out.dense_weights += a.hidden_size;  // the last norm
  out.whole_weights = out.dense_weights;
  out.saved_values = 2.0 * static_cast<double>(a.hidden_size);
  return out;
}

}  // namespace tailor::trainer::plan
