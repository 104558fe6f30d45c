// What changed between two images of [channels, height, width]: see changes.py, which says the same in numpy.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "handles.h"
#include "kernels.h"

namespace {

using namespace foveate;

constexpr int64_t kBand = 16;        // rows that a thread takes at a time, at least
constexpr int64_t kPiece = 1 << 16;  // numbers

// Of bytes that are 0 or 1, eight at a time.
int32_t sum(const uint8_t* bytes, int64_t n) {
  int32_t found = 0;
  for (; n >= 8; n -= 8, bytes += 8) {
    uint64_t eight;
    std::memcpy(&eight, bytes, 8);
    found += int32_t(eight * 0x0101010101010101 >> 56);
  }
  for (; n; n--) found += *bytes++;
  return found;
}

}  // namespace

int32_t fv_compare(FvPool* pool, const float* now, const float* last, int64_t channels, int64_t height, int64_t width,
                   float threshold, int64_t block, uint8_t* moved, int32_t* counts) {
  const Kernels& kernels = *kernels_for(Isa::kBest);
  const int64_t area = height * width, columns = (width + block - 1) / block;
  const int64_t band = (kBand + block - 1) / block * block;  // whole blocks
  std::atomic<bool> finite{true};
  Pool::Run run(of(pool));
  run.each((height + band - 1) / band, [&](int64_t unit) {
    const int64_t begin = unit * band, end = std::min(height, begin + band), at = begin * width;
    if (!kernels.compare(moved + at, now + at, last + at, channels, area, threshold, (end - begin) * width))
      finite.store(false, std::memory_order_relaxed);
    if (block == 1) return;
    std::fill(counts + begin / block * columns, counts + (end + block - 1) / block * columns, 0);
    for (int64_t y = begin; y < end; y++)
      for (int64_t b = 0; b < columns; b++)
        counts[y / block * columns + b] += sum(moved + y * width + b * block, std::min(block, width - b * block));
  });
  return !finite.load();
}

int32_t fv_finite(FvPool* pool, const float* values, int64_t count) {
  const Kernels& kernels = *kernels_for(Isa::kBest);
  std::atomic<bool> finite{true};
  Pool::Run run(of(pool));
  run.each((count + kPiece - 1) / kPiece, [&](int64_t unit) {
    const int64_t first = unit * kPiece;
    if (!kernels.finite(values + first, std::min(kPiece, count - first))) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
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
