#include "models/kernels/matvec.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <c10/util/Exception.h>

#include <algorithm>

#include "models/kernels/matvec_amx.hpp"
#include "models/kernels/matvec_bf16.hpp"
#include "models/kernels/matvec_blocks.hpp"

// T tokens, I in, O out
namespace tailor::models::kernels {
namespace {

template <typename W>
void portable(const MatvecRows<float, W>& rows) {
  all_rows<4, 2, 4>(rows);
}
template <typename W>
[[gnu::target("avx2,fma")]] void avx2(const MatvecRows<float, W>& rows) {
  if (rows.num_tokens <= kFewTokens)
    all_rows<8, 2, 4>(rows);
  else
    all_rows_of_many<8, 3>(rows);
}
template <typename W>
[[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")]] void avx512(
    const MatvecRows<float, W>& rows) {
  if (rows.num_tokens <= kFewTokens)
    all_rows<16, 1, 4>(rows);
  else
    all_rows<16, 4, 4>(rows);
}

template <typename W>
void widened(const MatvecRows<float, W>& rows, Isa isa) {
  switch (isa) {
    case Isa::Portable:
      return portable(rows);
    case Isa::Avx2:
      return avx2(rows);
    default:
      return avx512(rows);
  }
}

constexpr std::int64_t kWeightsATask = 16384;  // below, waking a thread costs more

/// Shares the rows of W among the threads, in whole blocks.
template <typename X, typename W, typename Kernel>
void run(const MatvecRows<X, W>& rows, const Kernel& kernel) {
  constexpr std::int64_t kBlock = 4;
  const auto grain = 1 + kWeightsATask / (kBlock * rows.in + 1);
  at::parallel_for(0, (rows.out + kBlock - 1) / kBlock, grain,
                   [&](std::int64_t begin, std::int64_t end) {
                     auto part = rows;
                     part.begin = begin * kBlock;
                     part.end = std::min(end * kBlock, rows.out);
                     kernel(part);
                   });
}

/// Whether tiles take the product, whatever the number of tokens: a lone one is 0.92 times as fast
/// as with vectors, but has the bits that it has among others, and eight are 1.5 times as fast.
bool fits_tiles(const at::Tensor& x_TI, const at::Tensor& weight_OI, Isa isa) {
  return isa == Isa::Amx && x_TI.scalar_type() == at::kBFloat16 &&
         weight_OI.scalar_type() == at::kBFloat16 && weight_OI.size(1) % kTileDepth == 0 &&
         weight_OI.size(0) % kTileRows == 0;
}

template <typename Y>
void run_tiles(const at::Tensor& x_TI, const at::Tensor& weight_OI, Y* y) {
  const auto x = x_TI.contiguous();
  const auto num_tokens = x.size(0), in = x.size(1), out = weight_OI.size(0);
  const auto packed = pack_for_tiles(x.const_data_ptr<c10::BFloat16>(), num_tokens, in);
  const auto* weight = weight_OI.const_data_ptr<c10::BFloat16>();
  const TileJob<Y> job{packed.data(), weight, weight_OI.stride(0), num_tokens, in, out, y};
  const auto grain = 1 + kWeightsATask / (kTileRows * in + 1);
  at::parallel_for(0, out / kTileRows, grain,
                   [&](std::int64_t begin, std::int64_t end) { multiply_rows(job, begin, end); });
}

bool is_operand(const at::Tensor& x) {
  return x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16;
}

void check(const at::Tensor& x_TI, const at::Tensor& weight_OI,
           const std::optional<at::Tensor>& bias_O) {
  TORCH_CHECK_VALUE(x_TI.dim() == 2 && weight_OI.dim() == 2 && x_TI.size(1) == weight_OI.size(1) &&
                        (!bias_O || (bias_O->dim() == 1 && bias_O->size(0) == weight_OI.size(0))),
                    "matvec: x (T, I), W (O, I) and bias (O) do not fit, found x ", x_TI.sizes(),
                    ", W ", weight_OI.sizes(), bias_O ? ", a bias" : "");
  TORCH_CHECK_VALUE(is_operand(x_TI) && is_operand(weight_OI) && x_TI.device().is_cpu() &&
                        weight_OI.device().is_cpu(),
                    "matvec: x and W are float32 or bfloat16 in main memory, found x ",
                    x_TI.scalar_type(), ", W ", weight_OI.scalar_type());
}

}  // namespace

bool takes_matvec(const at::Tensor& x_TI) {
  return x_TI.is_cpu() && x_TI.size(0) <= kMatvecMaxTokens;
}

at::Tensor matvec(const at::Tensor& x_TI, const at::Tensor& weight_OI,
                  const std::optional<at::Tensor>& bias_O, Isa isa) {
  check(x_TI, weight_OI, bias_O);
  const auto weight = weight_OI.stride(1) == 1 ? weight_OI : weight_OI.contiguous();
  const auto num_tokens = x_TI.size(0), in = x_TI.size(1), out = weight.size(0);
  const auto y_type = bias_O ? at::kFloat : x_TI.scalar_type();  // rounded once, behind the bias
  auto y_TO = at::empty({num_tokens, out}, x_TI.options().dtype(y_type));
  const MatvecOutput y{y_type == at::kFloat ? y_TO.data_ptr<float>() : nullptr,
                       y_type == at::kFloat ? nullptr : y_TO.data_ptr<c10::BFloat16>()};
  const auto rows_of = [&]<typename X, typename W>(const X* x, const W* w) {
    return MatvecRows<X, W>{x, w, weight.stride(0), num_tokens, in, out, y, 0, out};
  };
  const bool weight_is_bf16 = weight.scalar_type() == at::kBFloat16;
  if (num_tokens > 0 && fits_tiles(x_TI, weight, isa)) {
    if (y.wide != nullptr)
      run_tiles(x_TI, weight, y.wide);
    else
      run_tiles(x_TI, weight, y.narrow);
  } else if (isa >= Isa::Avx512Bf16 && weight_is_bf16 && x_TI.scalar_type() == at::kBFloat16) {
    const auto x = x_TI.contiguous();
    run(rows_of(x.const_data_ptr<c10::BFloat16>(), weight.const_data_ptr<c10::BFloat16>()),
        avx512_bf16);
  } else {
    const auto x = x_TI.to(at::kFloat).contiguous();
    const auto kernel = [&](const auto& rows) { widened(rows, isa); };
    if (weight_is_bf16)
      run(rows_of(x.const_data_ptr<float>(), weight.const_data_ptr<c10::BFloat16>()), kernel);
    else
      run(rows_of(x.const_data_ptr<float>(), weight.const_data_ptr<float>()), kernel);
  }
  if (bias_O) y_TO.add_(*bias_O);
  return y_TO.to(x_TI.scalar_type());
}

at::Tensor matvec_reference(const at::Tensor& x_TI, const at::Tensor& weight_OI,
                            const std::optional<at::Tensor>& bias_O) {
  check(x_TI, weight_OI, bias_O);
  auto y_TO = at::matmul(x_TI.to(at::kDouble), weight_OI.to(at::kDouble).t());
  if (bias_O) y_TO.add_(*bias_O);
  return y_TO;
}

}  // namespace tailor::models::kernels
