// Kernels for x86-64 with avx512f, avx512vl, avx512bw, avx512dq, avx2, fma; with and without avx512vnni.
#include "kernels.h"

#ifdef __x86_64__
#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")
#endif

namespace foveate::avx512 {
namespace {
constexpr int kWidth = 16, kLevels = 3, kTiles[] = {14, 12, 7};
#include "kernels_impl.h"

namespace pairs {
constexpr int kByteTiles[] = {14, 12, 5};
inline Integers multiply_pairs(Halves a, Halves b) { return (Integers)_mm512_madd_epi16((__m512i)a, (__m512i)b); }
#include "pairs_impl.h"
#include "bytes_impl.h"
constexpr Kernels kKernels = kernels_with("avx512", &kBytes);
}  // namespace pairs

namespace vnni {
constexpr int kByteTiles[] = {14, 14, 6};
typedef Integers Quad;
typedef Integers Weights;
inline Quad load_quad(const uint8_t* from) {
  int32_t four;
  __builtin_memcpy(&four, from, 4);
  return Integers{} + four;
}
inline Weights load_weights(const int8_t* from) { return *reinterpret_cast<const LooseIntegers*>(from); }
// In words of its own: with the intrinsic, gcc spills the sums.
inline void dot(Integers& sum, Quad x, Weights w) { asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w)); }
#include "bytes_impl.h"
constexpr Kernels kKernels = kernels_with("avx512_vnni", &kBytes);
}  // namespace vnni
}  // namespace

const Kernels* kernels() { return &pairs::kKernels; }
const Kernels* kernels_vnni() { return &vnni::kKernels; }
}  // namespace foveate::avx512

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
