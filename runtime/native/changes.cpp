// What changed between two images of [channels][area]: see changes.py, which says the same in numpy.
#include <algorithm>

#include "foveate.h"

namespace {

constexpr int64_t kPiece = 4096;  // positions that stay in the nearest cache over all channels

}  // namespace

void fv_moved(const float* now, const float* last, int64_t channels, int64_t area, float threshold, uint8_t* moved) {
  for (int64_t begin = 0; begin < area; begin += kPiece) {
    const int64_t n = std::min(kPiece, area - begin);
    uint8_t* out = moved + begin;
    int32_t any[kPiece];  // as wide as the floats: the compiler makes vectors of it
    std::fill_n(any, n, 0);
    for (int64_t c = 0; c < channels; c++) {
      const float *a = now + c * area + begin, *b = last + c * area + begin;
      for (int64_t i = 0; i < n; i++) {
        const float change = a[i] - b[i];
        any[i] |= (change > threshold) | (change < -threshold);
      }
    }
    for (int64_t i = 0; i < n; i++) out[i] = uint8_t(any[i]);
  }
}

void fv_accept(const float* now, float* last, int64_t channels, int64_t area, const uint8_t* dirty) {
  for (int64_t i = 0; i < area;) {
    const uint8_t* next = std::find(dirty + i, dirty + area, uint8_t(1));
    const int64_t first = next - dirty;
    const int64_t end = std::find(next, dirty + area, uint8_t(0)) - dirty;
    for (int64_t c = 0; c < channels; c++) std::copy(now + c * area + first, now + c * area + end, last + c * area + first);
    i = end;
  }
}

void fv_count(const uint8_t* moved, int64_t height, int64_t width, int64_t block, int32_t* counts) {
  const int64_t columns = (width + block - 1) / block;
  std::fill_n(counts, (height + block - 1) / block * columns, 0);
  for (int64_t y = 0; y < height; y++) {
    int32_t* row = counts + y / block * columns;
    const uint8_t* from = moved + y * width;
    for (int64_t b = 0; b < columns; b++)
      for (int64_t x = b * block; x < std::min(width, (b + 1) * block); x++) row[b] += from[x];
  }
}
