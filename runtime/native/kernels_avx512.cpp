// Kernels for x86-64 with avx512f, avx512vl, avx512bw, avx512dq, avx2, fma.
#include "kernels.h"

#ifdef __x86_64__
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")
#endif

namespace foveate::avx512 {
namespace {
constexpr int kWidth = 16, kLevels = 3, kTiles[] = {14, 12, 7};
constexpr const char* kName = "avx512";
#include "kernels_impl.h"
}  // namespace

const Kernels* kernels() { return &kKernels; }
}  // namespace foveate::avx512

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
