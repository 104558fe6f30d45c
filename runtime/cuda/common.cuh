// What all kernels share. Compiled by g++ as well, with tests/runtime/cuda/emulator.h in the place of CUDA: the same
// kernels then run on a CPU, which tests their logic without a GPU.
#pragma once
#include <algorithm>
#include <cstdint>

#ifdef __CUDACC__
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#else
#include "emulator.h"
#endif

#include "foveate_cuda.h"

namespace foveate {

constexpr unsigned kFull = 0xffffffffu;  // all lanes of a warp
constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kMostGrid = 65535;  // blocks along y and z

template <class T>
struct Same {
  using type = T;
};

// Blocks of kThreads. None is no error.
template <class... P>
int32_t launch(void (*kernel)(P...), dim3 grid, void* stream, typename Same<P>::type... given) {
  if (!grid.x || !grid.y || !grid.z) return cudaSuccess;
#ifdef __CUDACC__
  void* pointers[] = {&given...};
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, dim3(kThreads), pointers, 0,
                          static_cast<cudaStream_t>(stream));
#else
  return emulator::run(grid, kThreads, stream, [=] { kernel(given...); });
#endif
}

// Numbers of so many bytes that are moved at once, for what is not looked at.
template <int kBytes>
struct alignas(kBytes) Chunk {
  uint32_t words[kBytes / 4];
};
template <>
struct Chunk<2> {
  uint16_t word;
};
template <>
struct Chunk<1> {
  uint8_t word;
};

// The largest chunk, in bytes, that divides all of these, which are ORed together: addresses, strides, offsets.
inline int chunk_of(int64_t all) { return all ? int(std::min<int64_t>(all & -all, 16)) : 16; }
inline int64_t address(const void* pointer) { return reinterpret_cast<intptr_t>(pointer); }

// f(Chunk<bytes>{}) for bytes of chunk_of.
template <class F>
int32_t with_chunk(int bytes, F f) {
  switch (bytes) {
    case 16: return f(Chunk<16>{});
    case 8: return f(Chunk<8>{});
    case 4: return f(Chunk<4>{});
    case 2: return f(Chunk<2>{});
    default: return f(Chunk<1>{});
  }
}

__host__ __device__ inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Division of numbers below 2³¹ by one that the host knows: a multiplication and a shift (Granlund and Montgomery 1994).
struct Divisor {
  uint32_t value, multiplier, shift;

  Divisor() = default;
  explicit Divisor(uint32_t by) : value(by), multiplier(0), shift(0) {
    while ((uint64_t(1) << shift) < by) shift++;
    multiplier = uint32_t((uint64_t(1) << 32) * ((uint64_t(1) << shift) - by) / by + 1);
  }
  __device__ uint32_t operator()(uint32_t n) const { return (__umulhi(n, multiplier) + n) >> shift; }
  // n becomes the rest.
  __device__ uint32_t split(uint32_t& n) const {
    const uint32_t quotient = (*this)(n);
    n -= quotient * value;
    return quotient;
  }
};

}  // namespace foveate
