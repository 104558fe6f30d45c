// Multi-scale deformable attention's reading: see export/ops/deformable_sample.py.
#pragma once
#include <cstdint>

#include "kernels.h"

namespace foveate {

// value [batch, tokens, heads, channels], where the tokens are those of maps of `sizes` [levels, 2], one after the
// other, row by row; locations [batch, queries, heads, levels, points, 2], weights without the 2; read [batch, queries,
// heads, channels].
struct DeformableSample {
  const float *value, *locations, *weights;
  const int64_t* sizes;
  float* read;
  int64_t batch, tokens, heads, channels, queries, levels, points;

  static constexpr int64_t kQueries = 16;  // of a unit of work
  int64_t units() const { return batch * ((queries + kQueries - 1) / kQueries); }
  void run(const Kernels&, int64_t unit) const;
};

}  // namespace foveate
