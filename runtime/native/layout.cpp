#include "layout.h"

#include <algorithm>

namespace foveate {
namespace {

typedef float Four __attribute__((vector_size(16)));
typedef float Loose __attribute__((vector_size(16), aligned(4), may_alias));

inline Four load(const float* from) { return *reinterpret_cast<const Loose*>(from); }
inline void store(float* to, Four v) { *reinterpret_cast<Loose*>(to) = v; }

inline void four_by_four(float* to, int64_t to_pitch, const float* from, int64_t from_pitch) {
  const Four a = load(from), b = load(from + from_pitch);
  const Four c = load(from + 2 * from_pitch), d = load(from + 3 * from_pitch);
  const Four ac0 = __builtin_shufflevector(a, c, 0, 4, 1, 5), ac1 = __builtin_shufflevector(a, c, 2, 6, 3, 7);
  const Four bd0 = __builtin_shufflevector(b, d, 0, 4, 1, 5), bd1 = __builtin_shufflevector(b, d, 2, 6, 3, 7);
  store(to, __builtin_shufflevector(ac0, bd0, 0, 4, 1, 5));
  store(to + to_pitch, __builtin_shufflevector(ac0, bd0, 2, 6, 3, 7));
  store(to + 2 * to_pitch, __builtin_shufflevector(ac1, bd1, 0, 4, 1, 5));
  store(to + 3 * to_pitch, __builtin_shufflevector(ac1, bd1, 2, 6, 3, 7));
}

}  // namespace

void transpose(float* to, int64_t to_pitch, const float* from, int64_t from_pitch, int64_t n, int64_t m) {
  for (int64_t j = 0; j < m; j += 4) {
    int64_t i = 0;
    if (j + 4 <= m)
      for (; i + 4 <= n; i += 4) four_by_four(to + i * to_pitch + j, to_pitch, from + j * from_pitch + i, from_pitch);
    for (; i < n; i++)
      for (int64_t k = j; k < std::min(m, j + 4); k++) to[i * to_pitch + k] = from[k * from_pitch + i];
  }
}

}  // namespace foveate
