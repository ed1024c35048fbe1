// The fused layers as operators: check, allocate, divide the rows over threads, call the kernels of fused_cpu.h.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>

#include "arguments.h"
#include "fused_cpu.h"

namespace internimage {
namespace {

using torch::headeronly::ScalarType;

const float* floats(const Tensor& x) { return static_cast<const float*>(x.const_data_ptr()); }
const float* floats(const std::optional<Tensor>& x) { return x ? floats(*x) : nullptr; }

// x as contiguous float32, of the given number of axes.
Tensor checked(const Tensor& x, int64_t axes, const char* name) {
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float, "internimage: ", name,
                  " of a fused layer must be float32; a prepared model takes images.float()");
  STD_TORCH_CHECK(x.dim() == axes, "internimage: ", name, " of a fused layer must have ", axes, " axes, got ", x.dim());
  return torch::stable::contiguous(x);
}

Panels panels(const Tensor& weight, const Tensor& bias, int64_t depth) {
  const int64_t columns = bias.size(0);
  STD_TORCH_CHECK(weight.size(0) == ceil_div(columns, kPanel) && weight.size(1) == depth && weight.size(2) == kPanel,
                  "internimage: the packed weight of a fused layer must be [", ceil_div(columns, kPanel), ", ", depth,
                  ", ", kPanel, "], got [", weight.size(0), ", ", weight.size(1), ", ", weight.size(2), "]");
  return Panels(floats(weight), floats(bias), depth, columns);
}

std::optional<Tensor> checked_norm(const std::optional<Tensor>& norm, int64_t channels) {
  if (!norm) return norm;
  const Tensor affine = checked(*norm, 2, "norm");
  STD_TORCH_CHECK(affine.size(0) == 2 && affine.size(1) == channels, "internimage: the norm of a fused layer must be ",
                  "[2, ", channels, "], got [", affine.size(0), ", ", affine.size(1), "]");
  return affine;
}

// f(first row, rows) over blocks of equal size, at most kBlockRows, as many as the threads need.
template <typename F>
void each_block(int64_t rows, const F& f) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t blocks = std::max<int64_t>(1, ceil_div(ceil_div(rows, kBlockRows), threads) * threads);
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * rows / blocks, count = (b + 1) * rows / blocks - first;
      if (count) f(first, count);
    }
  });
}

Tensor convolution(Tensor input, Tensor weight, Tensor bias, std::optional<Tensor> norm,
                   std::optional<Tensor> residual, int64_t kernel, int64_t stride, bool activate, double eps,
                   int64_t version) {
  check_version(version);
  input = checked(input, 4, "input"), weight = checked(weight, 3, "weight"), bias = checked(bias, 1, "bias");
  STD_TORCH_CHECK(kernel > 0 && kernel % 2 == 1 && stride > 0, "internimage: kernel must be odd, stride positive");
  const int64_t n = input.size(0), h = input.size(1), w = input.size(2), channels = input.size(3);
  const int64_t out_h = (h - 1) / stride + 1, out_w = (w - 1) / stride + 1, columns = bias.size(0);
  const Panels packed = panels(weight, bias, kernel * kernel * channels);
  norm = checked_norm(norm, columns);
  const Tensor output = torch::stable::new_empty(input, {n, out_h, out_w, columns});
  if (residual) {
    residual = checked(*residual, 4, "residual");
    STD_TORCH_CHECK(residual->size(0) == n && residual->size(1) == out_h && residual->size(2) == out_w &&
                        residual->size(3) == columns,
                    "internimage: the residual of a fused layer must have the shape of its output");
  }
  float* const out = static_cast<float*>(output.mutable_data_ptr());
  each_block(n * out_h * out_w, [&](int64_t row, int64_t rows) {
    const Finish finish{{floats(norm), columns, float(eps)}, activate,
                        residual ? floats(residual) + row * columns : nullptr};
    const Rows to{out + row * columns, columns, false};
    if (kernel == 1 && stride == 1) {
      linear_block(PlainRows{floats(input), channels, {}}, row, rows, packed, to, finish, columns);
    } else {
      const ConvolvedRows source{floats(input), h, w, channels, out_h, out_w, kernel, stride};
      linear_block(source, row, rows, packed, to, finish, columns);
    }
  });
  return output;
}

Tensor mlp(Tensor input, Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2, std::optional<Tensor> input_norm,
           std::optional<Tensor> output_norm, double eps, int64_t version) {
  check_version(version);
  input = checked(input, 4, "input");
  weight1 = checked(weight1, 3, "weight1"), bias1 = checked(bias1, 1, "bias1");
  weight2 = checked(weight2, 3, "weight2"), bias2 = checked(bias2, 1, "bias2");
  const int64_t channels = input.size(3);
  STD_TORCH_CHECK(bias2.size(0) == channels, "internimage: an MLP must return as many channels as it takes");
  const Panels first = panels(weight1, bias1, channels), second = panels(weight2, bias2, bias1.size(0));
  input_norm = checked_norm(input_norm, channels), output_norm = checked_norm(output_norm, channels);
  const Tensor output = torch::stable::new_empty(input, input.sizes());
  float* const out = static_cast<float*>(output.mutable_data_ptr());
  const PlainRows source{floats(input), channels, {floats(input_norm), channels, float(eps)}};
  each_block(input.numel() / std::max<int64_t>(1, channels), [&](int64_t row, int64_t rows) {
    const Finish finish{{floats(output_norm), channels, float(eps)}, false, floats(input) + row * channels};
    mlp_block(source, row, rows, first, second, Rows{out + row * channels, channels, false}, finish, channels);
  });
  return output;
}

Tensor depthwise(Tensor input, Tensor weight, Tensor bias, Tensor norm, int64_t kernel, double eps, int64_t version) {
  check_version(version);
  input = checked(input, 4, "input"), weight = checked(weight, 2, "weight"), bias = checked(bias, 1, "bias");
  const int64_t n = input.size(0), h = input.size(1), w = input.size(2), channels = input.size(3);
  STD_TORCH_CHECK(kernel > 0 && kernel % 2 == 1 && weight.size(0) == kernel * kernel && weight.size(1) == channels &&
                      bias.size(0) == channels,
                  "internimage: the depthwise weight must be [kernel * kernel, channels] with an odd kernel");
  norm = *checked_norm(norm, channels);
  const Tensor output = torch::stable::new_empty(input, input.sizes());
  float* const out = static_cast<float*>(output.mutable_data_ptr());
  const Depthwise layer{floats(weight), floats(bias), kernel, h, w, channels, {floats(norm), channels, float(eps)}};
  torch::stable::parallel_for(0, n * h, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      layer.row(floats(input) + i / h * h * w * channels, i % h, out + i * w * channels);
    }
  });
  return output;
}

}  // namespace
}  // namespace internimage

STABLE_TORCH_LIBRARY_IMPL(internimage, CPU, m) {
  m.impl("fused_convolution", TORCH_BOX(&internimage::convolution));
  m.impl("fused_mlp", TORCH_BOX(&internimage::mlp));
  m.impl("fused_depthwise", TORCH_BOX(&internimage::depthwise));
}
