// Kernels for any processor that the compiler knows: vectors of four, which are SSE2 on x86-64 and NEON on ARM.
#include "kernels.h"

namespace foveate::portable {
namespace {
constexpr int kWidth = 4, kLevels = 2, kTiles[] = {10, 6, 0}, kByteTiles[] = {4, 2, 0};
#include "kernels_impl.h"

// A byte times a signed byte fits in 16 bits.
inline Integers multiply_pairs(Halves a, Halves b) {
  const Integers products = (Integers)(a * b);
  return (products << 16 >> 16) + (products >> 16);
}
#include "pairs_impl.h"
#include "bytes_impl.h"

constexpr Kernels kKernels = kernels_with("portable", &kBytes);
}  // namespace

const Kernels* kernels() { return &kKernels; }
}  // namespace foveate::portable
