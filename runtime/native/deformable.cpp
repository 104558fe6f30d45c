#include "deformable.h"

#include <algorithm>
#include <vector>

namespace foveate {
namespace {

// The rows to be read and their shares, of all points of one head.
struct Taps {
  explicit Taps(size_t most) : rows(most), shares(most) {}
  void add(bool inside, const float* row, float share) {
    rows[count] = row, shares[count] = share;
    count += inside;  // what stands outside is written over
  }
  std::vector<const float*> rows;
  std::vector<float> shares;
  size_t count = 0;
};

// A point at (x, y) in positions, 0 the middle of the first: its four neighbours, those that are there.
void add_point(Taps& taps, const float* map, int64_t step, int64_t height, int64_t width, float x, float y,
               float share) {
  if (!(x > -1 && y > -1 && x < float(width) && y < float(height))) return;  // NaN, too
  const int64_t left = int64_t(x + 1) - 1, top = int64_t(y + 1) - 1;  // rounded down: x + 1 is positive
  const float right_share = x - float(left), low_share = y - float(top);
  const float* at = map + (top * width + left) * step;
  const bool has_left = left >= 0, has_right = left + 1 < width, has_top = top >= 0, has_low = top + 1 < height;
  taps.add(has_top && has_left, at, share * (1 - low_share) * (1 - right_share));
  taps.add(has_top && has_right, at + step, share * (1 - low_share) * right_share);
  taps.add(has_low && has_left, at + width * step, share * low_share * (1 - right_share));
  taps.add(has_low && has_right, at + (width + 1) * step, share * low_share * right_share);
}

}  // namespace

void DeformableSample::run(const Kernels& kernels, int64_t unit) const {
  const int64_t pieces = (queries + kQueries - 1) / kQueries, image = unit / pieces, first = unit % pieces * kQueries;
  const int64_t step = heads * channels, each = levels * points;
  Taps taps(size_t(4 * each + 1));  // one is written behind the last
  for (int64_t query = first; query < std::min(queries, first + kQueries); query++)
    for (int64_t head = 0; head < heads; head++) {
      const int64_t item = (image * queries + query) * heads + head;
      const float *place = locations + item * each * 2, *share = weights + item * each;
      const float* map = value + image * tokens * step + head * channels;
      taps.count = 0;
      for (int64_t level = 0; level < levels; level++) {
        const int64_t height = sizes[2 * level], width = sizes[2 * level + 1];
        for (int64_t point = 0; point < points; point++, place += 2, share++)
          add_point(taps, map, step, height, width, place[0] * float(width) - 0.5f, place[1] * float(height) - 0.5f,
                    *share);
        map += height * width * step;
      }
      kernels.sum_rows(read + item * channels, taps.rows.data(), taps.shares.data(), int64_t(taps.count), channels);
    }
}

}  // namespace foveate
