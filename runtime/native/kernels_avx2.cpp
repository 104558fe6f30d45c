// Kernels for x86-64 with avx2, fma.
#include "kernels.h"

#ifdef __x86_64__
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

namespace foveate::avx2 {
namespace {
constexpr int kWidth = 8, kLevels = 2, kTiles[] = {10, 6, 0};
constexpr const char* kName = "avx2";
#include "kernels_impl.h"
}  // namespace

const Kernels* kernels() { return &kKernels; }
}  // namespace foveate::avx2

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
