// Convolutions of bytes, included after kernels_impl.h inside a namespace that says what is kept of four bytes of a
// position (`Quad`) and of a vector of weights for four channels (`Weights`), and how `dot` adds their products up.

template <int N, int V>
void conv(const ByteTile& tile) {
  const int8_t* w = tile.weights;
  Integers sum[N][V];
#pragma GCC unroll 4
  for (int v = 0; v < V; v++)
#pragma GCC unroll 16
    for (int n = 0; n < N; n++) sum[n][v] = *reinterpret_cast<const LooseIntegers*>(tile.start + v * kWidth);
  for (int64_t t = 0; t < tile.tap_count; t++) {
    const uint8_t* in[N];
    for (int n = 0; n < N; n++) in[n] = tile.in[n] + tile.taps[t];
#pragma GCC unroll 1
    for (int64_t b = 0; b < 4 * tile.tap_quads; b += 4, w += V * kWidth * 4) {
      Weights weights[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) weights[v] = load_weights(w + v * kWidth * 4);
      for (int v = 0; v < V; v += kLine / kWidth) __builtin_prefetch(w + (kAhead * V + v) * kWidth * 4);
#pragma GCC unroll 16
      for (int n = 0; n < N; n++) {
        const Quad x = load_quad(in[n] + b);
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) dot(sum[n][v], x, weights[v]);
      }
    }
  }
  Vector value[N][V];
#pragma GCC unroll 4
  for (int v = 0; v < V; v++) {
    const Vector scale = load(tile.scale + v * kWidth), bias = load(tile.bias + v * kWidth);
#pragma GCC unroll 16
    for (int n = 0; n < N; n++) value[n][v] = __builtin_convertvector(sum[n][v], Vector) * scale + bias;
  }
  store_tile<N, V>(tile.out, value, tile.channels);
}

#undef FV_CELL
#define FV_CELL(V, N) conv<(N <= kByteTiles[V / 2] && V <= 1 << (kLevels - 1) ? N : 1), V>

const ByteKernels kBytes = {{kByteTiles[0], kByteTiles[1], kByteTiles[2]}, {FV_ROW(1), FV_ROW(2), FV_ROW(4)}};
