// Runs the CPU kernels on random geometries, for a build with the address and undefined-behaviour sanitizers, and prints
// for each dtype the sums of the absolute values of what they give.
#include "dcnv3_cpu.h"
#include "sanitized.h"

using namespace internimage;

template <typename T>
void run(T, const char* name, std::mt19937& random) {
  const auto any = [&](int low, int high) { return draw(random, low, high); };
  Geometry g{};
  g.n = any(1, 2), g.h = any(1, 6), g.w = any(1, 6), g.groups = any(1, 4), g.group_channels = any(1, 40);
  g.kernel_h = any(1, 4), g.kernel_w = any(1, 4), g.stride_h = any(1, 2), g.stride_w = any(1, 2);
  g.dilation_h = any(1, 2), g.dilation_w = any(1, 2);
  g.pad_h = g.dilation_h * g.kernel_h, g.pad_w = g.dilation_w * g.kernel_w;
  g.out_h = (g.h + 2 * g.pad_h - g.dilation_h * (g.kernel_h - 1) - 1) / g.stride_h + 1;
  g.out_w = (g.w + 2 * g.pad_w - g.dilation_w * (g.kernel_w - 1) - 1) / g.stride_w + 1;
  g.remove_center = g.kernel_h == 3 && g.kernel_w == 3 && any(0, 1), g.softmax = any(0, 1), g.offset_scale = 1.5;
  g.mask_stride = g.groups * g.taps() + any(0, 3), g.offset_stride = 2 * g.groups * g.taps() + any(0, 3);
  std::normal_distribution<float> normal(0, float(any(0, 4)));
  const auto tensor = [&](int64_t count) {
    std::vector<T> values(count);
    for (T& value : values) value = T(normal(random));
    return values;
  };
  const int64_t pixels = g.output_pixels(), points = g.groups * g.taps(), inputs = g.n * g.h * g.w * g.channels();
  const auto input = tensor(inputs), grad = tensor(pixels * g.channels());
  // The last pixel of a wider tensor ends with its own channels.
  const auto mask = tensor((pixels - 1) * g.mask_stride + points);
  auto offset = tensor((pixels - 1) * g.offset_stride + 2 * points);
  for (T& value : offset) {
    if (any(0, 20) == 0) value = T(any(0, 1) ? NAN : 1e30f);
  }
  std::vector<T> output(pixels * g.channels()), grad_offset(2 * pixels * points), grad_mask(pixels * points);
  std::vector<T> grad_input(inputs);
  const int64_t groups = g.n * g.h * g.w * g.groups;
  std::vector<Real<T>> image(groups * padded_channels<Real<T>>(g.group_channels)), grad_image(image.size());
  pack(g.group_channels, input.data(), image.data(), 0, groups);
  dcnv3_forward(g, image.data(), offset.data(), mask.data(), output.data(), 0, pixels);
  dcnv3_backward(g, grad.data(), image.data(), offset.data(), mask.data(), grad_image.data(), grad_offset.data(),
                 grad_mask.data(), 0, g.n * g.groups);
  unpack(g.group_channels, grad_image.data(), grad_input.data(), 0, groups);
  std::printf("%s %.17g %.17g %.17g %.17g\n", name, sum(output), sum(grad_input), sum(grad_offset), sum(grad_mask));
}

int main() {
  run_all([](auto value, const char* name, std::mt19937& random) { run(value, name, random); });
}
