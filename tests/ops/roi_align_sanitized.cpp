// Runs the CPU kernels of RoIAlign and non-maximum suppression on random sizes, for a build with the address and
// undefined-behaviour sanitizers, and prints for each dtype the sums of the absolute values of what they give.
#include <memory>

#include "nms_cpu.h"
#include "roi_align_cpu.h"
#include "sanitized.h"

using namespace internimage;

template <typename T>
void run(T, const char* name, std::mt19937& random) {
  using R = Real<T>;
  const auto any = [&](int low, int high) { return draw(random, low, high); };
  const RoIAlign a{any(1, 2), any(1, 70), any(1, 12),    any(1, 12),     any(1, 5),
                   any(1, 8), any(1, 8),  0.25, any(0, 2), any(0, 1) == 1};
  std::normal_distribution<float> normal(0, 1);
  const auto fill = [&](auto& values, float middle, float spread) {
    for (auto& value : values) value = std::remove_reference_t<decltype(value)>(middle + spread * normal(random));
  };
  std::vector<R> rois(5 * a.rois);
  fill(rois, 20, float(any(0, 30)));
  for (int64_t roi = 0; roi < a.rois; ++roi) {
    rois[5 * roi] = R(any(-1, int(a.n)));
    if (any(0, 10) == 0) rois[5 * roi + any(1, 4)] = any(0, 1) ? R(NAN) : R(1e30f);
  }
  const int64_t outputs = a.rois * a.channels * a.bins(), inputs = a.n * a.channels * a.pixels();
  std::vector<T> input(inputs), output(outputs), grad(outputs);
  std::vector<R> grad_input(inputs);
  fill(input, 0, 1), fill(grad, 0, 1);
  roi_align_forward(a, input.data(), any(0, 1) == 1, rois.data(), output.data(), 0, a.rois);
  roi_align_backward(a, grad.data(), rois.data(), grad_input.data(), 0, (a.channels + kBlock<R> - 1) / kBlock<R>);

  const int64_t count = any(0, 60);
  std::vector<R> boxes(4 * count);
  std::vector<int64_t> groups(count);
  fill(boxes, 0, 10);
  for (int64_t i = 0; i < count; ++i) groups[i] = i / 15 - 1, boxes[4 * i + 2] += 20, boxes[4 * i + 3] += 20;
  const std::unique_ptr<bool[]> kept(new bool[count]);
  nms(boxes.data(), groups.data(), count, R(0.3f), kept.get());
  int64_t kept_boxes = 0;
  for (int64_t i = 0; i < count; ++i) kept_boxes += kept[i];
  std::printf("%s %.17g %.17g %lld\n", name, sum(output), sum(grad_input), static_cast<long long>(kept_boxes));
}

int main() {
  run_all([](auto value, const char* name, std::mt19937& random) { run(value, name, random); });
}
