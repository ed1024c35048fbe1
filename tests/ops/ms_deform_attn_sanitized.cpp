// Runs the CPU kernels of multi-scale deformable attention on random sizes, for a build with the address and
// undefined-behaviour sanitizers, and prints for each dtype the sums of the absolute values of what they give.
#include "ms_deform_attn_cpu.h"
#include "sanitized.h"

using namespace internimage;

template <typename T>
void run(T, const char* name, std::mt19937& random) {
  using R = Real<T>;
  const auto any = [&](int low, int high) { return draw(random, low, high); };
  int64_t shapes[6];
  for (int64_t& size : shapes) size = any(1, 5);
  Attention a{};
  a.n = any(1, 2), a.heads = any(1, 4), a.head_channels = any(1, 40), a.queries = any(1, 5);
  a.levels = any(1, 3), a.points = any(1, 5), a.shapes = shapes;
  for (int64_t level = 0; level < a.levels; ++level) a.pixels += a.height(level) * a.width(level);
  std::normal_distribution<float> normal(0.5f, float(any(0, 2)));
  const auto fill = [&](auto& values) {
    for (auto& value : values) value = std::remove_reference_t<decltype(value)>(normal(random));
  };
  const int64_t count = a.n * a.queries * a.heads * a.samples(), outputs = a.n * a.queries * a.channels();
  std::vector<T> value(a.n * a.pixels * a.channels()), weights(count), grad(outputs);
  std::vector<R> locations(2 * count);
  fill(value), fill(weights), fill(grad), fill(locations);
  for (R& place : locations) {
    if (any(0, 20) == 0) place = any(0, 1) ? R(NAN) : R(1e30f);
  }
  std::vector<T> output(outputs), grad_weights(count), grad_value(value.size());
  std::vector<R> grad_locations(2 * count);
  const int64_t groups = a.n * a.pixels * a.heads;
  std::vector<R> image(groups * padded_channels<R>(a.head_channels)), grad_image(image.size());
  pack(a.head_channels, value.data(), image.data(), 0, groups);
  ms_deform_attn_forward(a, image.data(), locations.data(), weights.data(), output.data(), 0, a.n * a.queries);
  ms_deform_attn_backward(a, grad.data(), image.data(), locations.data(), weights.data(), grad_image.data(),
                          grad_locations.data(), grad_weights.data(), 0, a.n * a.heads);
  unpack(a.head_channels, grad_image.data(), grad_value.data(), 0, groups);
  std::printf("%s %.17g %.17g %.17g %.17g\n", name, sum(output), sum(grad_value), sum(grad_locations),
              sum(grad_weights));
}

int main() {
  run_all([](auto value, const char* name, std::mt19937& random) { run(value, name, random); });
}
