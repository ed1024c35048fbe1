// Kernels with one bug each, and one without, to see that the emulation finds them. Each reverses the blocks of an array.
#include <cuda_runtime.h>

#include <cstdlib>
#include <vector>

constexpr int kBlock = 64;
enum Bug { kNone, kNoBarrier, kDivergentBarrier, kMissingLane, kUninitialised, kMisaligned, kOutOfRange };

__global__ void reverse(const float* input, float* output, int bug) {
  __shared__ float block[kBlock];
  const int thread = int(threadIdx.x), first = int(blockIdx.x) * kBlock;
  if (bug != kUninitialised || thread != 5) block[thread] = __ldg(input + first + thread);
  if (bug == kDivergentBarrier ? thread < 32 : bug != kNoBarrier) __syncthreads();
  float value = block[kBlock - 1 - thread];
  if (bug != kMissingLane || thread != 40) value += __shfl_xor_sync(~0u, value, 1) * 0;
  if (bug == kMisaligned) value = __ldg(reinterpret_cast<const float2*>(input + 1)).x;
  if (bug == kOutOfRange) value = __ldg(input + int(gridDim.x) * kBlock);
  output[first + thread] = value;
}

extern "C" int planted(int bug, const float* input, float* output, int blocks) {
  void* arguments[] = {&input, &output, &bug};
  return cudaLaunchKernel(reverse, dim3(unsigned(blocks)), dim3(kBlock), arguments, 0, nullptr);
}

int main(int, char** arguments) {
  const std::vector<float> input(3 * kBlock, 1.0f);
  std::vector<float> output(3 * kBlock);
  return planted(std::atoi(arguments[1]), input.data(), output.data(), 3);
}
