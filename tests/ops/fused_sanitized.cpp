// Runs the fused layers' kernels on random shapes, for a build with the address and undefined-behaviour sanitizers, and
// prints the sums of the absolute values of what they give.
#include "fused_cpu.h"
#include "sanitized.h"

using namespace internimage;

int main() {
  std::mt19937 random(0);
  const auto any = [&](int low, int high) { return draw(random, low, high); };
  std::normal_distribution<float> normal;
  const auto tensor = [&](int64_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = normal(random);
    return values;
  };
  for (int i = 0; i < 200; ++i) {
    const int64_t h = any(1, 5), w = any(1, 5), channels = any(1, 40) * (i % 10 ? 1 : 16), hidden = any(1, 300);
    const int64_t columns = any(1, 70), kernel = 1 + 2 * any(0, 2), stride = any(1, 2);
    const int64_t out_h = (h - 1) / stride + 1, out_w = (w - 1) / stride + 1, rows = out_h * out_w;
    const auto packed = [&](int64_t depth, int64_t n) { return tensor(ceil_div(n, kPanel) * kPanel * depth); };
    const auto input = tensor(h * w * channels), bias = tensor(std::max({columns, channels, hidden}));
    const auto affine = tensor(2 * std::max(columns, channels)), residual = tensor(rows * columns);
    std::vector<float> output(rows * columns), same_size(h * w * channels);

    const int64_t depth = kernel * kernel * channels;
    const auto weight = packed(depth, columns);
    const Finish finish{{any(0, 1) ? affine.data() : nullptr, columns, 1e-6f}, any(0, 1) == 1,
                        any(0, 1) ? residual.data() : nullptr};
    const ConvolvedRows source{input.data(), h, w, channels, out_h, out_w, kernel, stride};
    linear_block(source, 0, rows, Panels(weight.data(), bias.data(), depth, columns), Rows{output.data(), columns, false},
                 finish, columns);

    const auto weight1 = packed(channels, hidden), weight2 = packed(hidden, channels);
    const Norm norm{affine.data(), channels, 1e-6f};
    mlp_block(PlainRows{input.data(), channels, norm}, 0, h * w, Panels(weight1.data(), bias.data(), channels, hidden),
              Panels(weight2.data(), bias.data(), hidden, channels), Rows{same_size.data(), channels, false},
              Finish{norm, false, input.data()}, channels);
    const double of_mlp = sum(same_size);

    const auto taps = tensor(kernel * kernel * channels);
    const Depthwise layer{taps.data(), bias.data(), kernel, h, w, channels, norm};
    for (int64_t y = 0; y < h; ++y) layer.row(input.data(), y, same_size.data() + y * w * channels);
    std::printf("float32 %.17g %.17g %.17g\n", sum(output), of_mlp, sum(same_size));
  }
}
