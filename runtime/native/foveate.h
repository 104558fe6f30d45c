// The C ABI of Foveate's native kernels, which library.py declares for ctypes.
//
// Arrays are C-contiguous and belong to the caller; lengths are in elements. No function throws, keeps a pointer beyond
// the life of what it was given for, or touches global state.
#pragma once
#include <cstdint>

#define FV_API extern "C" __attribute__((visibility("default")))

// Raised whenever a signature or the plan's encoding changes: a library of another version is not loaded.
constexpr int32_t kAbi = 1;

FV_API int32_t fv_abi();

// Rectangles [n, 4] (y0, x0, y1, x1, half open) over the cells of `active` [height, width] that are not 0; see
// rectangles.py. Writes at most `limit`, and returns how many there are.
FV_API int64_t fv_cover(const uint8_t* active, int64_t height, int64_t width, double fixed, const int32_t halo[4],
                        int64_t* rects, int64_t limit);
