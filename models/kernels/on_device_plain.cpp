// Builds without CUDA: nothing but plain tensor operations, which any device of libtorch has.
#include "models/kernels/on_device.hpp"
#include "models/kernels/plain.hpp"

namespace tailor::models::kernels::on_device {

NormedRows rms_norm(const at::Tensor& x_TD, const std::optional<at::Tensor>& delta_TD,
                    const at::Tensor& weight_D, double eps) {
  return rms_norm_reference(x_TD, delta_TD, weight_D, eps);
}

at::Tensor rms_norm_backward(const at::Tensor& dy_TD, const std::optional<at::Tensor>& dh_TD,
                             const at::Tensor& h_TD, const at::Tensor& weight_D,
                             const at::Tensor& rstd_T) {
  return rms_norm_backward_reference(dy_TD, dh_TD, h_TD, weight_D, rstd_T);
}

at::Tensor rotate(const at::Tensor& x_TNH, const at::Tensor& cos_TF, const at::Tensor& sin_TF,
                  bool inverse) {
  return rotate_reference(x_TNH, cos_TF, sin_TF, inverse);
}

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  return swiglu_reference(gate, up);
}

std::pair<at::Tensor, at::Tensor> swiglu_backward(const at::Tensor& dy, const at::Tensor& gate,
                                                  const at::Tensor& up) {
  return plain::swiglu_backward(dy, gate, up);
}

at::Tensor copy_tokens(const at::Tensor& x_TD, const at::Tensor& row_of_TK, std::int64_t num_rows) {
  return plain::copy_tokens(x_TD, row_of_TK, num_rows);
}

at::Tensor sum_copies(const at::Tensor& rows_MD, const at::Tensor& row_of_TK,
                      const at::Tensor& weights_TK) {
  return plain::sum_copies(rows_MD, row_of_TK, weights_TK);
}

std::pair<at::Tensor, at::Tensor> sum_copies_backward(const at::Tensor& dy_TD,
                                                      const at::Tensor& rows_MD,
                                                      const at::Tensor& row_of_TK,
                                                      const at::Tensor& weights_TK) {
  return plain::sum_copies_backward(dy_TD, rows_MD, row_of_TK, weights_TK);
}

TokenLosses token_loss_(at::Tensor& logits_CV, const at::Tensor& target_C, bool gradient) {
  return token_loss_reference_(logits_CV, target_C, gradient);
}

}  // namespace tailor::models::kernels::on_device
