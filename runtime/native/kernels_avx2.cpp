// Kernels for x86-64 with avx2, fma.
#include "kernels.h"

#ifdef __x86_64__
#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

namespace foveate::avx2 {
namespace {
constexpr int kWidth = 8, kLevels = 2, kTiles[] = {10, 6, 0}, kByteTiles[] = {10, 4, 0};
#include "kernels_impl.h"

inline Integers multiply_pairs(Halves a, Halves b) { return (Integers)_mm256_madd_epi16((__m256i)a, (__m256i)b); }
#include "pairs_impl.h"
#include "bytes_impl.h"

constexpr Kernels kKernels = kernels_with("avx2", &kBytes);
}  // namespace

const Kernels* kernels() { return &kKernels; }
}  // namespace foveate::avx2

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
