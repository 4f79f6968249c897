#include "models/files/fused_experts.hpp"

#include <algorithm>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "models/files/file_error.hpp"

namespace tailor::models {
namespace {

constexpr std::string_view kGateUp = ".experts.gate_up_proj", kDown = ".experts.down_proj";

struct Names {
  std::string gate = "gate_proj", up = "up_proj", down = "down_proj";
  bool sparse_moe = false;  // the block is "block_sparse_moe"
};

Names names_of(const std::string& model_type) {
  if (model_type == "mixtral") return {"w1", "w3", "w2", true};
  return {};
}

class SplitExperts final : public TensorSource {
 public:
  SplitExperts(std::shared_ptr<const TensorSource> source, Names names)
      : source_(std::move(source)), names_(std::move(names)) {
    for (const auto& entry : source_->entries()) {
      if (entry.name.ends_with(kGateUp))
        split_gate_up(entry);
      else if (entry.name.ends_with(kDown))
        split(entry, kDown, names_.down, 0, checked(entry)[1]);
      else
        add(entry, published(entry.name), {.name = entry.name, .expert = {}});
    }
  }

  const std::vector<TensorEntry>& entries() const override { return entries_; }
  bool contains(const std::string& name) const override { return parts_.contains(name); }

  at::Tensor read(const std::string& name, at::ScalarType dtype) const override {
    const auto& part = find(name);
    if (!part.expert) return source_->read(part.name, dtype);
    return source_->read_part(part.name, dtype, ranges(part, {})).squeeze(0);
  }
  at::Tensor read_slice(const std::string& name, at::ScalarType dtype, std::int64_t dim,
                        std::int64_t begin, std::int64_t length) const override {
    return read_part(name, dtype, {{dim, begin, length}});
  }
  at::Tensor read_part(const std::string& name, at::ScalarType dtype,
                       const std::vector<TensorRange>& asked) const override {
    const auto& part = find(name);
    if (!part.expert) return source_->read_part(part.name, dtype, asked);
    for (const auto& range : asked)
      check_slice(entries_[part.entry], range.dim, range.begin, range.length, "experts");
    return source_->read_part(part.name, dtype, ranges(part, asked)).squeeze(0);
  }

 private:
  /// Where a tensor lies: all of `name`, or rows [begin, begin + rows) of one expert's matrix.
  struct Part {
    std::string name;
    std::optional<std::int64_t> expert;
    std::int64_t begin = 0, rows = 0;
    std::size_t entry = 0;
  };

  const Part& find(const std::string& name) const {
    const auto found = parts_.find(name);
    if (found == parts_.end()) throw FileError("tensor " + in_quotes(name) + ": not in the file");
    return found->second;
  }

  static std::vector<TensorRange> ranges(const Part& part, const std::vector<TensorRange>& asked) {
    std::vector<TensorRange> out{{0, *part.expert, 1}};
    TensorRange rows{1, part.begin, part.rows};
    for (const auto& range : asked) {
      if (range.dim == 0)
        rows = {1, part.begin + range.begin, range.length};
      else
        out.push_back({range.dim + 1, range.begin, range.length});
    }
    out.push_back(rows);
    return out;
  }

  std::string published(std::string name) const {
    const auto block = name.find(".mlp.");
    if (names_.sparse_moe && block != std::string::npos)
      name.replace(block, 5, ".block_sparse_moe.");
    return name;
  }

  static const std::vector<std::int64_t>& checked(const TensorEntry& entry) {
    if (entry.shape.size() != 3)
      throw FileError("tensor " + in_quotes(entry.name) +
                      ": expected three dimensions (experts, out, in), found " +
                      shape_text(entry.shape));
    return entry.shape;
  }

  void split_gate_up(const TensorEntry& entry) {
    const auto rows = checked(entry)[1];
    if (rows % 2 != 0)
      throw FileError("tensor " + in_quotes(entry.name) +
                      ": expected gate and up, an even number of rows, found " +
                      shape_text(entry.shape));
    split(entry, kGateUp, names_.gate, 0, rows / 2);
    split(entry, kGateUp, names_.up, rows / 2, rows / 2);
  }

  void split(const TensorEntry& fused, std::string_view suffix, const std::string& projection,
             std::int64_t begin, std::int64_t rows) {
    const auto block = published(fused.name.substr(0, fused.name.size() - suffix.size() + 1));
    const auto all_rows = std::max<std::int64_t>(1, fused.shape[0] * fused.shape[1]);
    for (std::int64_t e = 0; e < fused.shape[0]; ++e) {
      TensorEntry entry = fused;
      entry.shape = {rows, fused.shape[2]};
      entry.num_bytes = fused.num_bytes / all_rows * rows;
      add(entry, block + "experts." + std::to_string(e) + '.' + projection + ".weight",
          {.name = fused.name, .expert = e, .begin = begin, .rows = rows});
    }
  }

  void add(TensorEntry entry, const std::string& name, Part part) {
    entry.name = name;
    part.entry = entries_.size();
    parts_.emplace(name, std::move(part));
    entries_.push_back(std::move(entry));
  }

  std::shared_ptr<const TensorSource> source_;
  Names names_;
  std::vector<TensorEntry> entries_;
  std::unordered_map<std::string, Part> parts_;
};

}  // namespace

std::shared_ptr<const TensorSource> split_fused_experts(std::shared_ptr<const TensorSource> source,
                                                        const std::string& model_type) {
  const auto& entries = source->entries();
  const bool fused = std::any_of(entries.begin(), entries.end(), [](const TensorEntry& entry) {
    return entry.name.ends_with(kGateUp) || entry.name.ends_with(kDown);
  });
  if (!fused) return source;
  return std::make_shared<SplitExperts>(std::move(source), names_of(model_type));
}

}  // namespace tailor::models
