// T tokens, I in, O out.
#include "models/generation/forward_record.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "models/layers/linear_wrapper.hpp"

namespace tailor::models {

/// One layer's answers, and what sits before the layer to keep and to replay them.
class ForwardRecord::Seat final : public LinearWrapper {
 public:
  Seat(std::shared_ptr<LinearBase> inner, ForwardRecord& record)
      : LinearWrapper(std::move(inner)), record_(record) {}

  at::Tensor forward(const at::Tensor& x_TI) override {
    if (record_.mode_ == Mode::Replay) return inner()->forward_known(x_TI, replayed());
    auto y_TO = inner()->forward(x_TI);
    if (record_.mode_ == Mode::Keep) keep(y_TO);
    return y_TO;
  }

  void forward_siblings(const at::Tensor& x_TI, std::span<LinearBase* const> layers,
                        std::span<at::Tensor> y) override {
    std::vector<LinearBase*> held;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      auto* seat = dynamic_cast<Seat*>(layers[i]);
      TORCH_CHECK(seat != nullptr, "forward record: a seat was taken behind it");
      held.push_back(seat->inner().get());
      if (record_.mode_ == Mode::Replay) y[i] = seat->replayed();
    }
    inner()->forward_siblings(x_TI, held, y);
    if (record_.mode_ != Mode::Keep) return;
    for (std::size_t i = 0; i < layers.size(); ++i) static_cast<Seat*>(layers[i])->keep(y[i]);
  }

  void clear() { kept_TO_.clear(); }
  std::int64_t num_bytes() const {
    std::int64_t sum = 0;
    for (const auto& y_TO : kept_TO_) sum += static_cast<std::int64_t>(y_TO.nbytes());
    return sum;
  }

 private:
  void keep(const at::Tensor& y_TO) {
    TORCH_CHECK(y_TO.size(0) == record_.rows_at_hand_, "forward record: ", y_TO.size(0),
                " rows, told of ", record_.rows_at_hand_);
    if (record_.kept_.empty()) return;
    const bool all = std::ssize(record_.kept_) == y_TO.size(0);
    // Nothing writes to an answer, so that one may be kept as it is.
    kept_TO_.push_back(all ? y_TO.contiguous()
                           : at::index_select(y_TO, 0, at::tensor(record_.kept_, at::kLong)));
  }

  at::Tensor replayed() const {
    const auto& places = record_.replayed_;
    const auto rows = std::ssize(places);
    auto y_TO = at::empty({rows, out_features()}, kept_TO_.front().options());
    const auto bytes = static_cast<std::size_t>(y_TO.stride(0) * y_TO.element_size());
    auto* to = static_cast<char*>(y_TO.mutable_data_ptr());
    constexpr std::int64_t kGrain = 64;
    at::parallel_for(0, rows, kGrain, [&](std::int64_t begin, std::int64_t end) {
      for (auto t = static_cast<std::size_t>(begin); t < static_cast<std::size_t>(end); ++t) {
        const auto& forward_TO = kept_TO_[static_cast<std::size_t>(places[t].forward)];
        const auto* from = static_cast<const char*>(forward_TO.const_data_ptr());
        std::memcpy(to + t * bytes, from + static_cast<std::size_t>(places[t].row) * bytes, bytes);
      }
    });
    return y_TO;
  }

  ForwardRecord& record_;
  std::vector<at::Tensor> kept_TO_;  // of every forward, the rows that are kept
};

ForwardRecord::ForwardRecord(CausalLM& model, std::int64_t budget_bytes)
    : budget_bytes_(budget_bytes) {
  for (const auto& [name, slot] : model.slots())
    if (slot != &model.lm_head()) slots_.push_back(slot);
  for (auto* slot : slots_)
    slot->rewrap([&](std::shared_ptr<LinearBase> layer) {
      return seats_.emplace_back(std::make_shared<Seat>(std::move(layer), *this));
    });
}

ForwardRecord::~ForwardRecord() {
  for (std::size_t i = 0; i < slots_.size(); ++i)
    slots_[i]->rewrap([&](auto) { return seats_[i]->inner(); });
}

void ForwardRecord::clear() {
  for (const auto& seat : seats_) seat->clear();
  kept_.clear();
  prompts_.clear();
  completions_.clear();
  num_forwards_ = 0;
  reserved_bytes_ = 0;
}

std::int64_t ForwardRecord::num_bytes() const {
  std::int64_t sum = 0;
  for (const auto& seat : seats_) sum += seat->num_bytes();
  return sum;
}

std::int64_t ForwardRecord::bytes_per_token() const {
  std::int64_t sum = 0;
  for (const auto& seat : seats_) {
    const auto dtype = kernels::activation_dtype(seat->weight().arithmetic());
    sum += seat->out_features() * static_cast<std::int64_t>(c10::elementSize(dtype));
  }
  return sum;
}

/// Which completions are kept: in order, while all of their tokens fit.
void ForwardRecord::plan(const std::vector<GenerationRequest>& requests) {
  const auto bytes = bytes_per_token();
  for (const auto& request : requests) {
    const auto length = std::ssize(request.prompt_ids);
    const auto own = request.max_new_tokens * bytes;
    bool has_prompt = false;
    for (std::int64_t i = 0; i < request.num_completions; ++i) {
      const auto needed = own + (has_prompt ? 0 : length * bytes);
      const bool fits = reserved_bytes_ + needed <= budget_bytes_;
      if (fits) reserved_bytes_ += needed;
      has_prompt = has_prompt || fits;
      completions_.push_back(
          {.prompt = prompts_.size(), .prompt_length = length, .kept = fits, .places = {}});
    }
    prompts_.emplace_back(has_prompt ? request.prompt_ids.size() : 0);
  }
}

/// Rows from `row` on are tokens from `first` on. What was kept before stays as it was.
void ForwardRecord::set_places(Places& places, std::int64_t first, std::int64_t count,
                               std::int64_t row) {
  if (std::ssize(places) < first + count) places.resize(static_cast<std::size_t>(first + count));
  for (std::int64_t t = 0; t < count; ++t) {
    auto& place = places[static_cast<std::size_t>(first + t)];
    if (place.forward >= 0) continue;
    place = {.forward = num_forwards_, .row = static_cast<std::int32_t>(std::ssize(kept_))};
    kept_.push_back(row + t);
  }
}

ForwardRecord::Recording::Recording(ForwardRecord& record,
                                    const std::vector<GenerationRequest>& requests)
    : record_(record),
      first_completion_(record.completions_.size()),
      first_prompt_(record.prompts_.size()) {
  record_.plan(requests);
  record_.mode_ = Mode::Keep;
}

ForwardRecord::Recording::~Recording() { record_.mode_ = Mode::Off; }

void ForwardRecord::Recording::next(std::span<const ForwardRows> rows) {
  if (!record_.kept_.empty()) ++record_.num_forwards_;
  record_.kept_.clear();
  std::int64_t row = 0;
  for (const auto& [request, number, first, count] : rows) {
    if (!number) {
      auto& places = record_.prompts_[first_prompt_ + request];
      if (!places.empty()) record_.set_places(places, first, count, row);
    } else if (auto& completion = record_.completions_[first_completion_ + *number];
               completion.kept) {
      // One that was put back computes its prompt again: that is known already.
      const auto again = std::clamp<std::int64_t>(completion.prompt_length - first, 0, count);
      record_.set_places(completion.places, first + again - completion.prompt_length, count - again,
                         row + again);
    }
    row += count;
  }
  record_.rows_at_hand_ = row;
}

std::int64_t ForwardRecord::Recording::number(std::size_t completion) const {
  return static_cast<std::int64_t>(first_completion_ + completion);
}

ForwardRecord::Replay::Replay(ForwardRecord& record, std::span<const Tokens> tokens,
                              std::int64_t num_rows)
    : record_(record), knows_all_(!tokens.empty()) {
  auto& out = record_.replayed_;
  out.clear();
  for (const auto& [number, of_prompt, count] : tokens) {
    if (number < 0 || number >= std::ssize(record_.completions_)) {
      knows_all_ = false;
      break;
    }
    const auto& completion = record_.completions_[static_cast<std::size_t>(number)];
    const auto& places = of_prompt ? record_.prompts_[completion.prompt] : completion.places;
    knows_all_ = knows_all_ && completion.kept && std::ssize(places) >= count;
    if (!knows_all_) break;
    out.insert(out.end(), places.begin(), places.begin() + count);
  }
  knows_all_ = knows_all_ && !out.empty() && std::ssize(out) <= num_rows &&
               std::ranges::none_of(out, [](const Place& place) { return place.forward < 0; });
  if (!knows_all_) return;
  out.resize(static_cast<std::size_t>(num_rows), Place(out.front()));
  record_.mode_ = Mode::Replay;
}

ForwardRecord::Replay::~Replay() {
  record_.mode_ = Mode::Off;
  record_.replayed_.clear();
}

}  // namespace tailor::models
