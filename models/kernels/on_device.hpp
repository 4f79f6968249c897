#pragma once

#include "models/kernels/rms_norm.hpp"
#include "models/kernels/rotary.hpp"
#include "models/kernels/swiglu.hpp"
#include "models/kernels/token_copies.hpp"
#include "models/kernels/token_loss.hpp"

/// Where the element-wise kernels of this folder, whose names, types and contracts these have, send
/// tensors that are not in host memory, once they have checked shapes. One of two files answers: in
/// a build with CUDA cuda/on_device.cpp, which takes the tensors of GPUs, else on_device_plain.cpp,
/// which takes any.
namespace tailor::models::kernels::on_device {

decltype(kernels::rms_norm) rms_norm;
decltype(kernels::rms_norm_backward) rms_norm_backward;
decltype(kernels::rotate) rotate;
decltype(kernels::swiglu) swiglu;
decltype(kernels::swiglu_backward) swiglu_backward;
decltype(kernels::copy_tokens) copy_tokens;
decltype(kernels::sum_copies) sum_copies;
decltype(kernels::sum_copies_backward) sum_copies_backward;
decltype(kernels::token_loss_) token_loss_;

}  // namespace tailor::models::kernels::on_device
