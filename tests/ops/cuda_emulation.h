// Runs CUDA kernels on a CPU: a host compiler builds a .cu file as it stands, with this header before all else.
//
// CUDA's own headers give the types and the arithmetic of the halves. The threads of a block are fibers. They take turns
// where threads of a device can see each other: at barriers, at operations of a warp, and before atomic additions; a
// seed decides who is next. Blocks run one after the other, in an order that the seed decides too.
//
// A kernel that misbehaves makes its launch fail with cudaErrorLaunchFailure, and emulation_error() says why: a barrier
// or an operation of a warp that not all of its threads reach, or an address that is not aligned. Shared memory begins
// as NaN. Addresses out of range are left to the address sanitizer.
#pragma once

#define __CUDA_RUNTIME_H__  // cuda_runtime.h would bring the compiler's half of CUDA; its API half is enough
#include <cuda_runtime_api.h>
#include <setjmp.h>
#include <ucontext.h>
#include <vector_functions.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __shared__
#define __shared__ static __attribute__((section("emulated_shared")))
// What the linker calls the ends of that section; weak, as a kernel need not have shared memory.
extern "C" char __start_emulated_shared[] __attribute__((weak)), __stop_emulated_shared[] __attribute__((weak));

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

namespace emulation {

constexpr std::size_t kStack = 1 << 16;

// Where a thread waits: the line of a barrier or of an operation of a warp, for the lanes in `mask`.
struct Wait {
  enum Kind { none, block, warp } kind = none;
  int line = 0;
  unsigned mask = 0;
  bool operator==(const Wait& other) const { return kind == other.kind && line == other.line && mask == other.mask; }
};

struct Thread {
  ucontext_t context;  // where it begins
  jmp_buf place;       // where it goes on; a jump needs no system call, as swapcontext does
  bool begun;
  std::unique_ptr<char[]> stack;
  Wait wait;
  bool finished = true;
  uint64_t given = 0, taken[32] = {};  // what it offers to the other lanes, and what they offered
};

inline std::vector<Thread> threads(1024);
inline jmp_buf scheduler;
inline int current = 0, block_threads = 0;
inline std::function<void()> body;
inline std::string problem;
inline std::mt19937 random;
inline int64_t launches = 0;
inline unsigned most_blocks = 0;  // a smaller grid than was asked for, where not 0

inline void yield() {
  if (_setjmp(threads[current].place) == 0) _longjmp(scheduler, 1);
}

inline void resume(Thread& thread) {
  if (_setjmp(scheduler) != 0) return;
  if (thread.begun) _longjmp(thread.place, 1);
  thread.begun = true;
  setcontext(&thread.context);
}

// Ends the launch: the block's other threads are never resumed.
inline void fail(const std::string& what) {
  if (problem.empty()) problem = what;
  for (;;) yield();
}

inline void run_thread() {
  body();
  threads[current].finished = true;
  yield();
}

inline void check_aligned(const void* address, std::size_t size) {
  if (reinterpret_cast<uintptr_t>(address) % size) fail("misaligned access of " + std::to_string(size) + " bytes");
}

inline void wait_for(Wait::Kind kind, int line, unsigned mask) {
  if (kind == Wait::warp && !(mask >> current % 32 & 1)) fail("a lane outside the mask, line " + std::to_string(line));
  threads[current].wait = {kind, line, mask};
  yield();
}

// Lets the threads go on that have all come to the same place; whether there were any.
inline bool release() {
  bool released = false;
  for (int first = 0; first < block_threads; first += 32) {
    const int end = std::min(first + 32, block_threads);
    for (int i = first; i < end; ++i) {
      const Wait wait = threads[i].wait;
      if (wait.kind != Wait::warp) continue;
      bool all = true;
      for (int lane = first; lane < first + 32; ++lane)
        if (wait.mask >> lane % 32 & 1) all = all && lane < end && !threads[lane].finished && threads[lane].wait == wait;
      if (!all) continue;
      for (int lane = first; lane < end; ++lane) {
        if (!(wait.mask >> lane % 32 & 1)) continue;
        for (int other = first; other < end; ++other) threads[lane].taken[other % 32] = threads[other].given;
        threads[lane].wait = {};
      }
      released = true;
    }
  }
  bool all = true;
  for (int i = 0; i < block_threads; ++i)
    all = all && !threads[i].finished && threads[i].wait.kind == Wait::block && threads[i].wait == threads[0].wait;
  for (int i = 0; all && i < block_threads; ++i) threads[i].wait = {};
  return released || all;
}

inline void run_block() {
  if (__start_emulated_shared != nullptr)
    std::memset(__start_emulated_shared, 0xff, std::size_t(__stop_emulated_shared - __start_emulated_shared));
  for (int i = 0; i < block_threads; ++i) {
    Thread& thread = threads[i];
    if (!thread.stack) thread.stack.reset(new char[kStack]);
    thread.wait = {}, thread.begun = thread.finished = false;
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.get(), thread.context.uc_stack.ss_size = kStack;
    makecontext(&thread.context, run_thread, 0);
  }
  std::vector<int> ready;
  while (problem.empty()) {
    ready.clear();
    int waiting = 0;
    for (int i = 0; i < block_threads; ++i) {
      if (threads[i].finished) continue;
      if (threads[i].wait.kind == Wait::none) ready.push_back(i);
      else waiting = threads[i].wait.line;
    }
    if (ready.empty()) {
      if (waiting && !release())
        problem = "not all threads come to the barrier or operation of a warp in line " + std::to_string(waiting);
      if (!waiting) return;
      continue;
    }
    std::shuffle(ready.begin(), ready.end(), random);
    for (const int i : ready) {
      current = i;
      threadIdx.x = unsigned(i);
      resume(threads[i]);
      if (!problem.empty()) break;
    }
  }
  for (Thread& thread : threads)
    if (!thread.finished) thread.stack.release(), thread.finished = true;  // the frames on it never end
}

inline cudaError_t launch(dim3 grid, dim3 block, std::function<void()> kernel) {
  ++launches;
  if (grid.x == 0 || grid.y != 1 || grid.z != 1 || block.x == 0 || block.x > 1024 || block.y != 1 || block.z != 1)
    return cudaErrorInvalidConfiguration;
  if (most_blocks) grid.x = std::min(grid.x, most_blocks);
  gridDim = grid, blockDim = block;
  block_threads = int(block.x);
  body = std::move(kernel);
  problem.clear();
  std::vector<unsigned> order(grid.x);
  for (unsigned i = 0; i < grid.x; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), random);
  for (unsigned i = 0; i < grid.x && problem.empty(); ++i) {
    blockIdx.x = order[i];
    run_block();
  }
  return problem.empty() ? cudaSuccess : cudaErrorLaunchFailure;
}

template <typename T>
uint64_t bits_of(T value) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

// Offers `value` to the lanes of the mask and takes that of `lane`.
template <typename T>
T exchange(unsigned mask, T value, int lane, int line) {
  threads[current].given = bits_of(value);
  wait_for(Wait::warp, line, mask);
  if (!(mask >> lane & 1)) fail("a value from a lane outside the mask, line " + std::to_string(line));
  T result;
  std::memcpy(&result, &threads[current].taken[lane], sizeof(T));
  return result;
}

}  // namespace emulation

extern "C" {  // for the program that loads the library; each library is one source, which includes this once
void emulation_seed(unsigned seed) { emulation::random.seed(seed); }
void emulation_most_blocks(unsigned blocks) { emulation::most_blocks = blocks; }
int64_t emulation_launches() { return emulation::launches; }
const char* emulation_error() { return emulation::problem.c_str(); }
}

template <typename... Parameters, std::size_t... kIndex>
cudaError_t emulated_launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, void** arguments,
                            std::index_sequence<kIndex...>) {
  return emulation::launch(grid, block, [=] {
    kernel(*static_cast<std::remove_reference_t<Parameters>*>(arguments[kIndex])...);
  });
}

template <typename... Parameters>
cudaError_t cudaLaunchKernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, void** arguments, size_t,
                             cudaStream_t) {
  return emulated_launch(kernel, grid, block, arguments, std::index_sequence_for<Parameters...>{});
}

// The default argument is the line of the call.
inline void __syncthreads(int line = __builtin_LINE()) { emulation::wait_for(emulation::Wait::block, line, 0); }
inline void __syncwarp(unsigned mask = ~0u, int line = __builtin_LINE()) {
  emulation::wait_for(emulation::Wait::warp, line, mask);
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int line = __builtin_LINE()) {
  return emulation::exchange(mask, value, lane & 31, line);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int step, int line = __builtin_LINE()) {
  return emulation::exchange(mask, value, int(threadIdx.x % 32) ^ step, line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  const int own = emulation::current;
  emulation::exchange(mask, predicate != 0, own % 32, line);
  unsigned votes = 0;
  for (int lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1) votes |= unsigned(emulation::threads[own].taken[lane] & 1) << lane;
  return votes;
}

template <typename T>
T __ldg(const T* address) {
  emulation::check_aligned(address, sizeof(T));
  return *address;
}

template <typename T>
T atomicAdd(T* address, T value) {
  emulation::check_aligned(address, sizeof(T));
  emulation::yield();
  return std::exchange(*address, *address + value);
}
inline float2 operator+(float2 a, float2 b) { return {a.x + b.x, a.y + b.y}; }
inline float4 operator+(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }

inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline float __fdividef(float a, float b) { return a / b; }
