#include "distributed/nccl_group.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "distributed/chain.hpp"
#include "distributed/group_checks.hpp"
#include "distributed/nccl_communicator.hpp"

namespace tailor::distributed {
namespace {

using Communicator = std::shared_ptr<NcclCommunicator>;

ncclDataType_t type_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kDouble:
      return ncclFloat64;
    case at::kInt:
      return ncclInt32;
    case at::kLong:
      return ncclInt64;
    default:
      return ncclFloat32;  // what check_reducible lets through beside these is widened
  }
}

/// What was enqueued. Holds its tensors until it has ended.
class Enqueued final : public Pending::Work {
 public:
  using Held = std::vector<at::Tensor>;

  Enqueued(Communicator communicator, std::string place, cudaEvent_t end, Held held)
      : communicator_(std::move(communicator)),
        place_(std::move(place)),
        end_(end),
        held_(std::make_unique<Held>(std::move(held))) {}
  ~Enqueued() override {
    // The GPU may still write: better to lose the memory, on the way out, than to have it
    // corrupted.
    if (!is_done_) static_cast<void>(held_.release());
    cudaEventDestroy(end_);
  }
  Enqueued(const Enqueued&) = delete;
  Enqueued& operator=(const Enqueued&) = delete;

  bool advance() override { return is_done_ = communicator_->is_done(place_, end_); }
  void wait() override {
    communicator_->wait(place_, end_);
    is_done_ = true;
  }

 private:
  Communicator communicator_;
  std::string place_;
  cudaEvent_t end_;
  std::unique_ptr<Held> held_;
  bool is_done_ = false;
};

class NcclGroup final : public Group {
 public:
  using Work = Pending::Work;

  NcclGroup(std::unique_ptr<Group> host, int device, const GroupOptions& options)
      : host_(std::move(host)),
        device_(at::kCUDA, static_cast<at::DeviceIndex>(device)),
        options_(options),
        collectives_(communicator()),
        upward_(communicator()),
        downward_(communicator()) {}

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  const std::string& name() const override { return host_->name(); }

  Pending start_all_reduce(at::Tensor& tensor, Reduce op) override {
    if (tensor.is_cpu()) return host_->start_all_reduce(tensor, op);
    const at::NoGradGuard no_grad;
    check_reducible("all_reduce", tensor);
    const auto place = begin("all_reduce");
    if (tensor.numel() == 0) return {};
    const auto work = widened(tensor);
    std::vector<Chain::Step> steps;
    steps.push_back(
        step(collectives_, place, {work}, [work, op](ncclComm_t comm, cudaStream_t stream) {
          return ncclAllReduce(work.const_data_ptr(), work.mutable_data_ptr(), count(work),
                               type_of(work), op == Reduce::Sum ? ncclSum : ncclMax, comm, stream);
        }));
    return finish(std::move(steps), tensor, work);
  }

  void broadcast(at::Tensor& tensor, int root) override {
    if (tensor.is_cpu()) return host_->broadcast(tensor, root);
    const at::NoGradGuard no_grad;
    check_peer("broadcast", *this, root);
    const auto place = begin("broadcast");
    if (tensor.numel() == 0) return;
    const auto work = here(tensor);
    std::vector<Chain::Step> steps;
    steps.push_back(
        step(collectives_, place, {work}, [work, root](ncclComm_t comm, cudaStream_t stream) {
          return ncclBroadcast(work.const_data_ptr(), work.mutable_data_ptr(), work.nbytes(),
                               ncclInt8, root, comm, stream);
        }));
    finish(std::move(steps), tensor, work).wait();
  }

  Pending start_all_gather(at::Tensor& whole, const at::Tensor& part) override {
    if (part.is_cpu() && whole.is_cpu()) return host_->start_all_gather(whole, part);
    const at::NoGradGuard no_grad;
    check_has_rows("all_gather", part);
    check_rows("all_gather", whole, part, part.size(0) * size());
    const auto place = begin("all_gather");
    if (part.numel() == 0) return {};
    const auto in = here(part);
    const auto out = landing(whole);
    std::vector<Chain::Step> steps;
    steps.push_back(
        step(collectives_, place, {in, out}, [in, out](ncclComm_t comm, cudaStream_t stream) {
          return ncclAllGather(in.const_data_ptr(), out.mutable_data_ptr(), in.nbytes(), ncclInt8,
                               comm, stream);
        }));
    return finish(std::move(steps), whole, out);
  }

  at::Tensor all_gather_v(const at::Tensor& part, std::span<const std::int64_t> rows) override {
    if (part.is_cpu()) return host_->all_gather_v(part, rows);
    check_has_rows("all_gather_v", part);
    check_splits("all_gather_v", *this, "rows", rows, sum(rows));
    const auto own = static_cast<std::size_t>(rank());
    TORCH_CHECK_VALUE(part.size(0) == rows[own], "all_gather_v: ", part.size(0), " rows where ",
                      rows[own], " were announced");
    // Every rank sends the same rows to each.
    std::vector<std::int64_t> copies(part.dim() > 0 ? static_cast<std::size_t>(part.dim()) : 1, 1);
    copies[0] = size();
    const at::NoGradGuard no_grad;
    const std::vector<std::int64_t> input_splits(static_cast<std::size_t>(size()), part.size(0));
    return all_to_all_v(part.repeat(copies), input_splits, rows);
  }

  at::Tensor reduce_scatter(const at::Tensor& whole) override {
    if (whole.is_cpu()) return host_->reduce_scatter(whole);
    const at::NoGradGuard no_grad;
    check_has_rows("reduce_scatter", whole);
    check_reducible("reduce_scatter", whole);
    auto sizes = whole.sizes().vec();
    sizes[0] = rows_a_rank("reduce_scatter", *this, whole.size(0));
    const auto place = begin("reduce_scatter");
    const auto in = widened(whole);
    const auto out = at::empty(sizes, in.options().requires_grad(false));
    auto result = at::empty(sizes, whole.options().requires_grad(false));
    if (out.numel() == 0) return result;
    std::vector<Chain::Step> steps;
    steps.push_back(
        step(collectives_, place, {in, out}, [in, out](ncclComm_t comm, cudaStream_t stream) {
          return ncclReduceScatter(in.const_data_ptr(), out.mutable_data_ptr(), count(out),
                                   type_of(out), ncclSum, comm, stream);
        }));
    finish(std::move(steps), result, out).wait();
    return result;
  }

  Pending start_all_to_all_v(at::Tensor& out, const at::Tensor& rows,
                             std::span<const std::int64_t> input_splits,
                             std::span<const std::int64_t> output_splits) override {
    if (rows.is_cpu() && out.is_cpu())
      return host_->start_all_to_all_v(out, rows, input_splits, output_splits);
    const at::NoGradGuard no_grad;
    check_has_rows("all_to_all_v", rows);
    check_rows("all_to_all_v", out, rows, sum(output_splits));
    check_splits("all_to_all_v", *this, "input splits", input_splits, rows.size(0));
    check_splits("all_to_all_v", *this, "output splits", output_splits, out.size(0));
    const auto place = begin("all_to_all_v");
    const auto in = here(rows);
    const auto to = landing(out);
    std::vector<Chain::Step> steps;
    steps.push_back(
        step(collectives_, place, {in, to},
             [in, to, sent = bytes_of(in, input_splits), received = bytes_of(to, output_splits)](
                 ncclComm_t comm, cudaStream_t stream) {
               const auto* source = static_cast<const char*>(in.const_data_ptr());
               auto* target = static_cast<char*>(to.mutable_data_ptr());
               auto result = ncclSuccess;
               const auto note = [&](ncclResult_t one) {
                 if (one != ncclSuccess && one != ncclInProgress) result = one;
               };
               for (std::size_t r = 0; r < sent.size(); ++r) {
                 const auto peer = static_cast<int>(r);
                 if (sent[r] > 0) note(ncclSend(source, sent[r], ncclInt8, peer, comm, stream));
                 if (received[r] > 0)
                   note(ncclRecv(target, received[r], ncclInt8, peer, comm, stream));
                 source += sent[r];
                 target += received[r];
               }
               return result;
             }));
    return finish(std::move(steps), out, to);
  }

  Pending start_send(const at::Tensor& tensor, int to) override {
    if (tensor.is_cpu()) return host_->start_send(tensor, to);
    const at::NoGradGuard no_grad;
    check_other("send", *this, to);
    if (tensor.numel() == 0) return {};
    const auto in = here(tensor);
    std::vector<Chain::Step> steps;
    steps.push_back(step(channel(rank(), to), message("send", "to", to), {in},
                         [in, to](ncclComm_t comm, cudaStream_t stream) {
                           return ncclSend(in.const_data_ptr(), in.nbytes(), ncclInt8, to, comm,
                                           stream);
                         }));
    return run(std::move(steps));
  }

  Pending start_recv(at::Tensor& tensor, int from) override {
    if (tensor.is_cpu()) return host_->start_recv(tensor, from);
    const at::NoGradGuard no_grad;
    check_other("recv", *this, from);
    if (tensor.numel() == 0) return {};
    const auto out = landing(tensor);
    std::vector<Chain::Step> steps;
    steps.push_back(step(channel(from, rank()), message("recv", "from", from), {out},
                         [out, from](ncclComm_t comm, cudaStream_t stream) {
                           return ncclRecv(out.mutable_data_ptr(), out.nbytes(), ncclInt8, from,
                                           comm, stream);
                         }));
    return finish(std::move(steps), tensor, out);
  }

  void barrier() override { host_->barrier(); }

  std::unique_ptr<Group> split(int color, const std::string& name) override {
    return std::make_unique<NcclGroup>(host_->split(color, name), device_.index(), options_);
  }

 private:
  std::string begin(const char* what) { return place(c10::str(what, " #", ++num_calls_)); }
  std::string message(const char* what, const char* direction, int peer) const {
    return place(c10::str(what, " ", direction, " rank ", peer));
  }
  std::string place(const std::string& what) const {
    return c10::str(what, " of group ", name(), ", rank ", rank(), " of ", size());
  }
  Communicator communicator() const {
    return std::make_shared<NcclCommunicator>(*host_, device_.index(), options_.timeout);
  }
  const Communicator& channel(int from, int to) const { return from < to ? upward_ : downward_; }

  at::Tensor here(const at::Tensor& tensor) const {
    return tensor.detach().to(device_).contiguous();
  }
  at::Tensor widened(const at::Tensor& tensor) const {
    const auto dtype = tensor.scalar_type();
    const bool narrow = dtype == at::kHalf || dtype == at::kBFloat16;
    return narrow ? here(tensor).to(at::kFloat) : here(tensor);
  }
  /// Where results for `tensor` may be written: itself, if it is contiguous and on this GPU.
  at::Tensor landing(const at::Tensor& tensor) const {
    if (tensor.device() == device_ && tensor.is_contiguous()) return tensor.detach();
    return at::empty(tensor.sizes(), tensor.options().device(device_).requires_grad(false));
  }

  Chain::Step step(const Communicator& communicator, std::string place,
                   std::vector<at::Tensor> held, NcclCommunicator::Calls calls) const {
    return [this, communicator, place = std::move(place), held = std::move(held),
            calls = std::move(calls)] {
      const auto current = c10::cuda::getCurrentCUDAStream(device_.index()).stream();
      const auto end = communicator->enqueue(place, current, calls);
      return std::make_unique<Enqueued>(communicator, place, end, held);
    };
  }
  /// Runs the steps; `work` is then copied to `tensor` unless it is its memory.
  static Pending finish(std::vector<Chain::Step> steps, const at::Tensor& tensor,
                        const at::Tensor& work) {
    if (!work.is_alias_of(tensor)) {
      steps.emplace_back([tensor, work]() -> std::unique_ptr<Work> {
        tensor.copy_(work);
        return nullptr;
      });
    }
    return run(std::move(steps));
  }
  static std::size_t count(const at::Tensor& tensor) {
    return static_cast<std::size_t>(tensor.numel());
  }
  static std::vector<std::size_t> bytes_of(const at::Tensor& tensor,
                                           std::span<const std::int64_t> splits) {
    const auto rows = static_cast<std::size_t>(std::max<std::int64_t>(tensor.size(0), 1));
    std::vector<std::size_t> out;
    for (const auto split : splits)
      out.push_back(tensor.nbytes() / rows * static_cast<std::size_t>(split));
    return out;
  }

  std::unique_ptr<Group> host_;
  at::Device device_;
  GroupOptions options_;
  Communicator collectives_, upward_, downward_;
  std::int64_t num_calls_ = 0;
};

}  // namespace

bool has_nccl() { return true; }

std::unique_ptr<Group> make_nccl_group(std::unique_ptr<Group> host, int device,
                                       const GroupOptions& options) {
  return std::make_unique<NcclGroup>(std::move(host), device, options);
}

}  // namespace tailor::distributed
