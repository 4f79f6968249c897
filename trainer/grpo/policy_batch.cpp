#include "trainer/grpo/policy_batch.hpp"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <stdexcept>

namespace tailor::trainer {

void check_responses(const PolicyBatch& batch) {
  const auto& offsets = batch.offsets;
  if (offsets.empty() || offsets.front() != 0 || !std::is_sorted(offsets.begin(), offsets.end()))
    throw std::invalid_argument("offsets: " + c10::str(c10::IntArrayRef(offsets)) +
                                ", expected rising from 0");
  if (batch.advantages.size() + 1 != offsets.size())
    throw std::invalid_argument("advantages: " + std::to_string(batch.advantages.size()) +
                                ", expected one for each of " + std::to_string(offsets.size() - 1) +
                                " responses");
}

Rows::Rows(const std::string& name, const at::Tensor& tensor_S, std::int64_t size) {
  if (!tensor_S.defined() || tensor_S.dim() != 1 || tensor_S.size(0) != size)
    throw std::invalid_argument(
        name + ": " +
        (tensor_S.defined() ? "shape " + c10::str(tensor_S.sizes()) : std::string("undefined")) +
        ", expected (" + std::to_string(size) + ")");
  values_ = tensor_S.detach().to(at::kCPU, at::kDouble).contiguous();
  data_ = values_.const_data_ptr<double>();
}

}  // namespace tailor::trainer
