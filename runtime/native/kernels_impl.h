// The kernels, written with the compiler's vectors. A file for each instruction set includes this inside its own
// namespace, after it has told the compiler what to generate: nothing here may come from the standard library, whose
// inline functions the linker would share with code for older processors.

typedef float Vector __attribute__((vector_size(kWidth * 4)));
typedef int32_t Integers __attribute__((vector_size(kWidth * 4)));
typedef float Loose __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));  // in memory, at any address

inline Vector load(const float* from) { return *reinterpret_cast<const Loose*>(from); }
inline void store(float* to, Vector v) { *reinterpret_cast<Loose*>(to) = v; }

// The first n numbers, in pieces of half a vector, a quarter …
inline void store_part(float* to, Vector v, int64_t n) {
  float all[kWidth];
  store(all, v);
  const float* from = all;
  for (int64_t piece = kWidth / 2; piece; piece /= 2) {
    if (!(n & piece)) continue;
    __builtin_memcpy(to, from, piece * sizeof(float));
    to += piece, from += piece;
  }
}

template <int N, int V>
__attribute__((noinline)) void store_partial(float* const* out, const Vector (&value)[N][V], int64_t channels) {
  for (int n = 0; n < N; n++)
    for (int v = 0; v < V; v++) {
      const int64_t left = channels - v * kWidth;
      if (left >= kWidth)
        store(out[n] + v * kWidth, value[n][v]);
      else
        store_part(out[n] + v * kWidth, value[n][v], left);
    }
}

// Unrolled, as all that touches a tile: it stays in registers if no loop finds a vector of it by a number.
template <int N, int V>
__attribute__((always_inline)) inline void store_tile(float* const* out, const Vector (&value)[N][V], int64_t channels) {
  if (channels == V * kWidth) {
#pragma GCC unroll 16
    for (int n = 0; n < N; n++)
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) store(out[n] + v * kWidth, value[n][v]);
    return;
  }
  Vector all[N][V];
#pragma GCC unroll 16
  for (int n = 0; n < N; n++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) all[n][v] = value[n][v];
  store_partial<N, V>(out, all, channels);
}

constexpr int kLine = 16;   // floats in a line of the cache
constexpr int kAhead = 24;  // channels that weights are fetched ahead: 0.73 to 0.95 of the time without

// N positions × V vectors of channels stay in registers over all taps.
template <int N, int V>
void conv(const ConvTile& tile) {
  const float* w = tile.weights;
  Vector sum[N][V];
#pragma GCC unroll 4
  for (int v = 0; v < V; v++) {
    const Vector bias = load(tile.bias + v * kWidth);
#pragma GCC unroll 16
    for (int n = 0; n < N; n++) sum[n][v] = bias;
  }
  for (int64_t t = 0; t < tile.tap_count; t++) {
    const float* in[N];
    for (int n = 0; n < N; n++) in[n] = tile.in[n] + tile.taps[t];
#pragma GCC unroll 1
    for (int64_t c = 0; c < tile.tap_length; c++, w += V * kWidth) {
      Vector weight[V];
      for (int v = 0; v < V; v++) weight[v] = load(w + v * kWidth);
      for (int v = 0; v < V; v += kLine / kWidth) __builtin_prefetch(w + (kAhead * V + v) * kWidth);
#pragma GCC unroll 16
      for (int n = 0; n < N; n++) {
        const float x = in[n][c];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) sum[n][v] += weight[v] * x;
      }
    }
  }
  store_tile<N, V>(tile.out, sum, tile.channels);
}

// N positions share the weights that were loaded. The last vector overlaps the one before it where none is left whole.
template <int N>
inline void depthwise_tile(float* const* out, const float* const* in, const int64_t* taps, int64_t tap_count,
                           const float* weights, const float* bias, int64_t channels) {
  for (int64_t i = 0; i < channels; i += kWidth) {
    if (i + kWidth > channels) i = channels - kWidth;
    Vector sum[N];
    for (int n = 0; n < N; n++) sum[n] = load(bias + i);
    for (int64_t t = 0; t < tap_count; t++) {
      const Vector weight = load(weights + t * channels + i);
      const int64_t at = taps[t] + i;
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) sum[n] += load(in[n] + at) * weight;
    }
    for (int n = 0; n < N; n++) store(out[n] + i, sum[n]);
  }
}

void depthwise(float* const* out, const float* const* in, int64_t count, const int64_t* taps, int64_t tap_count,
               const float* weights, const float* bias, int64_t channels) {
  if (channels < kWidth) {
    for (int64_t n = 0; n < count; n++)
      for (int64_t i = 0; i < channels; i++) {
        float sum = bias[i];
        for (int64_t t = 0; t < tap_count; t++) sum += in[n][taps[t] + i] * weights[t * channels + i];
        out[n][i] = sum;
      }
    return;
  }
  for (; count >= 6; count -= 6, out += 6, in += 6)
    depthwise_tile<6>(out, in, taps, tap_count, weights, bias, channels);
  for (; count; count--, out++, in++) depthwise_tile<1>(out, in, taps, tap_count, weights, bias, channels);
}

// y[i] = F(y[i], a, b): whole vectors, then the rest through one. (A lambda would not be compiled for the instruction set.)
template <Vector (*F)(Vector, float, float)>
inline void map(float* y, float a, float b, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(y + i, F(load(y + i), a, b));
  if (i == n) return;
  Vector rest = {};
  for (int64_t j = i; j < n; j++) rest[j - i] = y[j];
  store_part(y + i, F(rest, a, b), n - i);
}

void add(float* __restrict y, const float* __restrict x, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] += x[i];
}
void subtract(float* __restrict y, const float* __restrict x, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] -= x[i];
}
void multiply(float* __restrict y, const float* __restrict x, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] *= x[i];
}
void maximum(float* __restrict y, const float* __restrict x, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] = y[i] > x[i] ? y[i] : x[i];
}
void scale(float* y, float by, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] *= by;
}
void add_scaled(float* __restrict y, const float* __restrict x, float by, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] += x[i] * by;
}

// V vectors of the sum stay in registers over all rows.
template <int V>
inline void sum_block(float* y, const float* const* rows, const float* shares, int64_t count, int64_t i) {
  Vector sum[V] = {};
  for (int64_t r = 0; r < count; r++) {
    const float* row = rows[r] + i;
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) sum[v] += load(row + v * kWidth) * shares[r];
  }
#pragma GCC unroll 4
  for (int v = 0; v < V; v++) store(y + i + v * kWidth, sum[v]);
}

void sum_rows(float* y, const float* const* rows, const float* shares, int64_t count, int64_t n) {
  int64_t i = 0;
  for (; i + 4 * kWidth <= n; i += 4 * kWidth) sum_block<4>(y, rows, shares, count, i);
  for (; i + 2 * kWidth <= n; i += 2 * kWidth) sum_block<2>(y, rows, shares, count, i);
  for (; i + kWidth <= n; i += kWidth) sum_block<1>(y, rows, shares, count, i);
  for (; i < n; i++) {
    float sum = 0;
    for (int64_t r = 0; r < count; r++) sum += rows[r][i] * shares[r];
    y[i] = sum;
  }
}

void affine(float* __restrict y, const float* __restrict scale, const float* __restrict shift, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] = y[i] * scale[i] + shift[i];
}
void prelu(float* __restrict y, const float* __restrict slope, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] = y[i] > 0 ? y[i] : y[i] * slope[i];
}

typedef uint8_t Flags __attribute__((vector_size(kWidth)));

inline bool any(Integers flags) {
  int64_t halves[kWidth / 2], found = 0;
  __builtin_memcpy(halves, &flags, sizeof flags);
  for (int j = 0; j < kWidth / 2; j++) found |= halves[j];
  return found != 0;
}

bool moved(const float* x, const float* y, float limit, int64_t n) {
  Integers found = {};
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const Vector change = load(x + i) - load(y + i);
    found |= ~((change <= limit) & (change >= -limit));  // NaN has moved, too
  }
  for (; i < n; i++) {
    const float change = x[i] - y[i];
    found[0] |= !(change <= limit && change >= -limit);
  }
  return any(found);
}

bool finite(const float* x, int64_t n) {
  Integers bad = {};
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const Vector v = load(x + i);
    bad |= v - v != 0.f;  // NaN is not equal to anything
  }
  for (; i < n; i++) bad[0] |= x[i] - x[i] != 0.f;
  return !any(bad);
}

bool compare(uint8_t* moved, const float* now, const float* last, int64_t channels, int64_t area, float limit, int64_t n) {
  Integers bad = {};
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    Integers found = {};
    for (int64_t c = 0; c < channels; c++) {
      const Vector v = load(now + c * area + i), change = v - load(last + c * area + i);
      found |= (change > limit) | (change < -limit);
      bad |= v - v != 0.f;
    }
    const Flags flags = __builtin_convertvector(found & 1, Flags);
    __builtin_memcpy(moved + i, &flags, kWidth);
  }
  for (; i < n; i++) {
    moved[i] = 0;
    for (int64_t c = 0; c < channels; c++) {
      const float v = now[c * area + i], change = v - last[c * area + i];
      moved[i] |= change > limit || change < -limit;
      bad[0] |= v - v != 0.f;
    }
  }
  return !any(bad);
}

inline Vector filled(float value) { return Vector{} + value; }
inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }
inline Vector smaller(Vector a, Vector b) { return a < b ? a : b; }

constexpr float kWhole = 12582912.f;  // 1.5 · 2²³: a small number added to it is rounded, and stands in its last bits

// eˣ to 2 ulp: 2ⁿ · eʳ with n = round(x / ln 2), and the series of eʳ to the seventh power, |r| ≤ ln 2 / 2.
inline Vector exponential(Vector x) {
  x = smaller(larger(x, filled(-87.f)), filled(88.f));
  const Vector n = (x * 1.44269504f + kWhole) - kWhole;
  const Vector r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  Vector p = filled(1.f / 5040);
  p = p * r + 1.f / 720;
  p = p * r + 1.f / 120;
  p = p * r + 1.f / 24;
  p = p * r + 1.f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.f;
  p = p * r + 1.f;
  const Integers power = (__builtin_convertvector(n, Integers) + 127) << 23;
  return p * (Vector)power;
}

inline Vector relu(Vector x, float, float) { return larger(x, filled(0.f)); }
inline Vector leaky(Vector x, float a, float) { return x > 0.f ? x : x * a; }
inline Vector clip(Vector x, float a, float b) { return smaller(larger(x, filled(a)), filled(b)); }
inline Vector sigmoid(Vector x, float, float) { return 1.f / (1.f + exponential(-x)); }
inline Vector hard_sigmoid(Vector x, float a, float b) { return clip(x * a + b, 0.f, 1.f); }
inline Vector hard_swish(Vector x, float, float) { return x * hard_sigmoid(x, 1.f / 6, 0.5f); }
inline Vector silu(Vector x, float, float) { return x * sigmoid(x, 0, 0); }
inline Vector tanh(Vector x, float, float) { return 2.f * sigmoid(2.f * x, 0, 0) - 1.f; }
inline Vector elu(Vector x, float a, float b) { return x > 0.f ? x : a * (exponential(b * x) - 1.f); }

// max(x, 0) + ln(1 + e), e = e^−|x|, by the series of 2 artanh(e / (2 + e)).
inline Vector softplus(Vector x, float, float) {
  const Vector e = exponential(smaller(x, -x)), z = e / (2.f + e), s = z * z;
  Vector p = filled(1.f / 13);
  p = p * s + 1.f / 11;
  p = p * s + 1.f / 9;
  p = p * s + 1.f / 7;
  p = p * s + 1.f / 5;
  p = p * s + 1.f / 3;
  return larger(x, filled(0.f)) + 2.f * z * (p * s + 1.f);
}

// To 2e-7: Abramowitz and Stegun, 7.1.26.
inline Vector erf(Vector x, float, float) {
  const Vector size = larger(x, -x), t = 1.f / (1.f + 0.3275911f * size);
  Vector p = filled(1.061405429f);
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const Vector y = 1.f - p * t * exponential(-size * size);
  return x < 0.f ? -y : y;
}

inline Vector exponential(Vector x, float, float) { return exponential(x); }

// The powers of all positions in one go: a position alone may fill little of a vector.
void softmax(float* y, int64_t channels, int64_t n) {
  for (float* p = y; p < y + n; p += channels) {
    float most = p[0];
    for (int64_t c = 1; c < channels; c++) most = p[c] > most ? p[c] : most;
    for (int64_t c = 0; c < channels; c++) p[c] -= most;
  }
  map<exponential>(y, 0, 0, n);
  for (float* p = y; p < y + n; p += channels) {
    float sum = 0;
    for (int64_t c = 0; c < channels; c++) sum += p[c];
    scale(p, 1.f / sum, channels);
  }
}

void activate(float* y, Activation kind, float a, float b, int64_t n) {
  switch (kind) {
    case Activation::kRelu: return map<relu>(y, a, b, n);
    case Activation::kLeaky: return map<leaky>(y, a, b, n);
    case Activation::kClip: return map<clip>(y, a, b, n);
    case Activation::kSigmoid: return map<sigmoid>(y, a, b, n);
    case Activation::kHardSigmoid: return map<hard_sigmoid>(y, a, b, n);
    case Activation::kHardSwish: return map<hard_swish>(y, a, b, n);
    case Activation::kSilu: return map<silu>(y, a, b, n);
    case Activation::kTanh: return map<tanh>(y, a, b, n);
    case Activation::kElu: return map<elu>(y, a, b, n);
    case Activation::kSoftplus: return map<softplus>(y, a, b, n);
    case Activation::kErf: return map<erf>(y, a, b, n);
  }
}

typedef int16_t Halves __attribute__((vector_size(kWidth * 4)));
typedef int16_t LooseHalves __attribute__((vector_size(kWidth * 4), aligned(1), may_alias));
typedef int32_t LooseIntegers __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));

// Written out number by number where bytes and floats meet: the compiler makes vectors of these loops, and would not of
// the conversions between vectors.
inline float rounded(float x, float scale, float low, float high) {
  x /= scale;
  x = x > low ? x : low;
  x = x < high ? x : high;
  return (x + kWhole) - kWhole;
}

void quantize(uint8_t* __restrict to, const float* __restrict x, float scale, int32_t zero, int64_t n) {
  const auto low = float(-zero), high = float(255 - zero);
  for (int64_t i = 0; i < n; i++) to[i] = uint8_t(int32_t(rounded(x[i], scale, low, high)) + zero);
}
void dequantize(float* __restrict y, const uint8_t* __restrict from, float scale, int32_t zero, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] = float(from[i] - zero) * scale;
}
void round(float* y, float scale, int32_t zero, int64_t n) {
  const auto low = float(-zero), high = float(255 - zero);
  for (int64_t i = 0; i < n; i++) y[i] = rounded(y[i], scale, low, high) * scale;
}
void add_bytes(float* __restrict y, const uint8_t* __restrict x, float scale, int32_t zero, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] += float(x[i] - zero) * scale;
}

void depthwise_bytes(float* __restrict y, const uint8_t* __restrict in, const int64_t* taps, int64_t tap_count,
                     const int8_t* __restrict weights, const int32_t* start, const float* scale, const float* bias,
                     int64_t n) {
  constexpr int kRun = 4 * kWidth;
  for (int64_t i = 0; i < n; i += kRun) {
    const int64_t m = n - i < kRun ? n - i : kRun;
    int32_t sum[kRun];
    for (int64_t j = 0; j < m; j++) sum[j] = start[i + j];
    for (int64_t t = 0; t < tap_count; t++) {
      const uint8_t* x = in + taps[t] + i;
      const int8_t* w = weights + t * n + i;
      for (int64_t j = 0; j < m; j++) sum[j] += x[j] * w[j];
    }
    for (int64_t j = 0; j < m; j++) y[i + j] = float(sum[j]) * scale[i + j] + bias[i + j];
  }
}

// A row of a table: a function for each number of positions, where there is none for so many the one for a single one.
#define FV_ROW(V)                                                                                               \
  {                                                                                                             \
    FV_CELL(V, 1), FV_CELL(V, 2), FV_CELL(V, 3), FV_CELL(V, 4), FV_CELL(V, 5), FV_CELL(V, 6), FV_CELL(V, 7),    \
        FV_CELL(V, 8), FV_CELL(V, 9), FV_CELL(V, 10), FV_CELL(V, 11), FV_CELL(V, 12), FV_CELL(V, 13),           \
        FV_CELL(V, 14)                                                                                          \
  }
#define FV_CELL(V, N) conv<(N <= kTiles[V / 2] && V <= 1 << (kLevels - 1) ? N : 1), V>

constexpr Kernels kernels_with(const char* name, const ByteKernels* bytes) {
  return {name,     kWidth,     kLevels, {kTiles[0], kTiles[1], kTiles[2]}, {FV_ROW(1), FV_ROW(2), FV_ROW(4)},
          depthwise, add,       subtract, multiply,  maximum, scale, add_scaled, sum_rows, affine, prelu, activate, softmax, moved,
          compare, finite, quantize, dequantize, round, add_bytes, depthwise_bytes, bytes};
}
