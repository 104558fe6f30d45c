// What changed between two images of [channels, height, width]: see changes.py, which says the same in numpy.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "handles.h"
#include "kernels.h"

namespace {

using namespace foveate;

constexpr int64_t kBand = 16;  // rows that a thread takes at a time, where blocks do not say

}  // namespace

int32_t fv_compare(FvPool* pool, const float* now, const float* last, int64_t channels, int64_t height, int64_t width,
                   float threshold, int64_t block, uint8_t* moved, int32_t* counts) {
  const Kernels& kernels = *kernels_for(Isa::kBest);
  const int64_t band = counts ? block : kBand, columns = (width + block - 1) / block;
  std::atomic<bool> not_finite{false};
  Pool::Run run(of(pool));
  run.each((height + band - 1) / band, [&](int64_t unit) {
    static thread_local std::vector<int32_t> found;
    found.resize(size_t(width));
    int32_t* sums = counts ? counts + unit * columns : nullptr;
    if (sums) std::fill_n(sums, columns, 0);
    int32_t all = 0;
    for (int64_t y = unit * band; y < std::min(height, (unit + 1) * band); y++) {
      std::fill(found.begin(), found.end(), 0);
      for (int64_t c = 0; c < channels; c++) {
        const int64_t at = (c * height + y) * width;
        kernels.compare(found.data(), now + at, last + at, threshold, width);
      }
      for (int64_t x = 0; x < width; x++) all |= found[x];
      for (int64_t x = 0; moved && x < width; x++) moved[y * width + x] = uint8_t(found[x] & 1);
      for (int64_t b = 0; sums && b < columns; b++)
        for (int64_t x = b * block; x < std::min(width, (b + 1) * block); x++) sums[b] += found[x] & 1;
    }
    if (all & 2) not_finite.store(true, std::memory_order_relaxed);
  });
  return not_finite.load();
}

void fv_fill(const uint8_t* blocks, int64_t height, int64_t width, int64_t block, uint8_t* positions) {
  const int64_t columns = (width + block - 1) / block;
  for (int64_t y = 0; y < height; y++) {
    uint8_t* row = positions + y * width;
    if (y % block) {
      std::memcpy(row, row - width, size_t(width));
      continue;
    }
    for (int64_t b = 0; b < columns; b++)
      std::memset(row + b * block, blocks[y / block * columns + b], size_t(std::min(block, width - b * block)));
  }
}

void fv_accept(FvPool* pool, const float* now, float* last, int64_t channels, int64_t height, int64_t width,
               const uint8_t* dirty) {
  const int64_t area = height * width, band = kBand * width;
  Pool::Run run(of(pool));
  run.each((height + kBand - 1) / kBand, [&](int64_t unit) {
    const uint8_t *at = dirty + unit * band, *end = dirty + std::min(area, (unit + 1) * band);
    while ((at = static_cast<const uint8_t*>(std::memchr(at, 1, size_t(end - at))))) {
      const void* next = std::memchr(at, 0, size_t(end - at));
      const uint8_t* stop = next ? static_cast<const uint8_t*>(next) : end;
      for (int64_t c = 0; c < channels; c++) {
        const int64_t first = c * area + (at - dirty);
        std::copy_n(now + first, stop - at, last + first);
      }
      at = stop;
    }
  });
}
