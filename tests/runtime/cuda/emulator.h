// Runs CUDA kernels on a CPU, block after block and thread after thread, each to where it waits for others. Of CUDA it
// has what runtime/cuda/*.cu use. What no thread can go on from, as a barrier that some never reach, ends the process.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __grid_constant__
#define __launch_bounds__(...)

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
inline const char* cudaGetErrorName(cudaError_t error) { return error ? "cudaErrorInvalidValue" : "cudaSuccess"; }

using cudaStream_t = struct CUstream_st*;
inline int cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t) {
  return std::memset(at, value, bytes), cudaSuccess;
}

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 blockIdx, gridDim, threadIdx;

namespace emulator {

// All threads of a group have to arrive. `round` counts how often they did.
struct Barrier {
  int size = 0, arrived = 0, round = 0;
};

struct Block {
  static constexpr int kMostThreads = 1024, kStack = 1 << 16;
  ucontext_t contexts[kMostThreads];  // where threads begin; then they go on from jumps, which cost no call of the kernel's
  jmp_buf scheduler, jumps[kMostThreads];
  std::vector<char> stacks = std::vector<char>(size_t(kMostThreads) * kStack);
  bool begun[kMostThreads], done[kMostThreads];
  Barrier all, warps[kMostThreads / 32];
  uint64_t slots[kMostThreads];  // what lanes say to one another
  int current = 0;
  bool moved = false;  // since the scheduler last looked
  bool reversed = false;
  std::function<void()> kernel;

  void yield() {
    if (!_setjmp(jumps[current])) _longjmp(scheduler, 1);
  }
  void resume() {
    if (_setjmp(scheduler)) return;
    if (begun[current]) _longjmp(jumps[current], 1);
    begun[current] = true;
    setcontext(&contexts[current]);
  }

  void wait(Barrier& barrier) {
    moved = true;
    const int round = barrier.round;
    if (++barrier.arrived == barrier.size) barrier.arrived = 0, barrier.round++;
    while (barrier.round == round) yield();
    moved = true;
  }
};

inline Block& block() {
  static Block one;
  return one;
}

inline void run_thread() {
  Block& b = block();
  b.kernel();
  b.done[b.current] = b.moved = true;
  // A thread that is gone is not waited for by blocks. A warp whose lanes ask for it waits forever, and that is told.
  if (--b.all.size && b.all.arrived == b.all.size) b.all.arrived = 0, b.all.round++;
  b.yield();
}

inline void run_block(int threads) {
  Block& b = block();
  b.all = {threads};
  for (int w = 0; w < threads / 32; w++) b.warps[w] = {32};
  for (int t = 0; t < threads; t++) {
    getcontext(&b.contexts[t]);
    b.contexts[t].uc_stack.ss_sp = &b.stacks[size_t(t) * Block::kStack];
    b.contexts[t].uc_stack.ss_size = Block::kStack;
    makecontext(&b.contexts[t], run_thread, 0);
    b.begun[t] = b.done[t] = false;
  }
  for (bool left = true; left;) {
    left = b.moved = false;
    for (int i = 0; i < threads; i++) {
      const int t = b.reversed ? threads - 1 - i : i;
      if (b.done[t]) continue;
      b.current = t, threadIdx.x = unsigned(t);
      b.resume();
      left |= !b.done[t];
    }
    if (left && !b.moved) std::fprintf(stderr, "emulator: threads wait for ones that never come\n"), std::abort();
  }
}

// On a stream that is not null, blocks and the threads within them run last to first. Results must not change.
template <class F>
int run(dim3 grid, int threads, void* stream, F kernel) {
  Block& b = block();
  b.kernel = kernel, b.reversed = stream != nullptr;
  gridDim = grid;
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  for (uint64_t i = 0; i < blocks; i++) {
    const uint64_t index = b.reversed ? blocks - 1 - i : i;
    blockIdx = dim3(unsigned(index % grid.x), unsigned(index / grid.x % grid.y), unsigned(index / grid.x / grid.y));
    run_block(threads);
  }
  return cudaSuccess;
}

// Every lane says a number and sees what lane `of(lane)` says.
template <class T, class F>
T exchange(T value, F of) {
  Block& b = block();
  const int thread = b.current, lane = thread % 32, first = thread - lane;
  std::memcpy(&b.slots[thread], &value, sizeof value);
  b.wait(b.warps[thread / 32]);
  const int other = of(lane);
  T found;
  std::memcpy(&found, &b.slots[other >= 0 && other < 32 ? first + other : thread], sizeof found);
  b.wait(b.warps[thread / 32]);
  return found;
}

}  // namespace emulator

inline void __syncthreads() { emulator::block().wait(emulator::block().all); }
inline void __threadfence() {}

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return emulator::exchange(value, [=](int) { return lane; });
}
template <class T>
T __shfl_up_sync(unsigned, T value, int by) {
  return emulator::exchange(value, [=](int lane) { return lane - by; });
}
template <class T>
T __shfl_down_sync(unsigned, T value, int by) {
  return emulator::exchange(value, [=](int lane) { return lane + by; });
}
inline unsigned __ballot_sync(unsigned, bool value) {
  unsigned bits = 0;
  emulator::Block& b = emulator::block();
  const int thread = b.current, first = thread - thread % 32;
  b.slots[thread] = value;
  b.wait(b.warps[thread / 32]);
  for (int lane = 0; lane < 32; lane++) bits |= unsigned(b.slots[first + lane]) << lane;
  b.wait(b.warps[thread / 32]);
  return bits;
}
inline bool __any_sync(unsigned mask, bool value) { return __ballot_sync(mask, value) != 0; }

inline unsigned atomicOr(unsigned* at, unsigned bits) {
  const unsigned old = *at;
  *at |= bits;
  return old;
}
inline int atomicAdd(int* at, int more) {
  const int old = *at;
  *at += more;
  return old;
}
inline unsigned atomicInc(unsigned* at, unsigned most) {
  const unsigned old = *at;
  *at = old >= most ? 0 : old + 1;
  return old;
}
template <class T>
T __ldcg(const T* at) {
  return *at;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
using std::max;
using std::min;

struct __half {
  uint16_t bits;
};
inline float __half2float(__half half) {
  const int exponent = half.bits >> 10 & 31, fraction = half.bits & 1023;
  const float size = exponent == 31  ? (fraction ? NAN : INFINITY)
                     : exponent == 0 ? std::ldexp(float(fraction), -24)
                                     : std::ldexp(float(fraction + 1024), exponent - 25);
  return half.bits & 0x8000 ? -size : size;
}
// To the nearest, ties to even: what nearbyint does.
inline __half __float2half_rn(float x) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const float size = std::fabs(x);
  if (std::isnan(x)) return {uint16_t(sign | 0x7e00)};
  if (size == 0) return {sign};
  if (size >= 65520) return {uint16_t(sign | 0x7c00)};
  int exponent = 0;
  std::frexp(size, &exponent);
  const int step = std::max(exponent - 11, -24);  // of the last bit
  const int units = int(std::nearbyint(std::ldexp(size, -step)));
  return {uint16_t(sign | (units + ((step + 24) << 10)))};
}
