// Kernels for any processor that the compiler knows: vectors of four, which are SSE2 on x86-64 and NEON on ARM.
#include "kernels.h"

namespace foveate::portable {
namespace {
constexpr int kWidth = 4, kLevels = 2, kTiles[] = {10, 6, 0};
constexpr const char* kName = "portable";
#include "kernels_impl.h"
}  // namespace

const Kernels* kernels() { return &kKernels; }
}  // namespace foveate::portable
