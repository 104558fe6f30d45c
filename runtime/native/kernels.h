// The arithmetic, once for each instruction set; everything else is compiled for any processor.
#pragma once
#include <cstdint>

namespace foveate {

constexpr int kMaxTile = 14;   // output positions that a convolution keeps in registers, at most …
constexpr int kMaxLevel = 2;  // … times 1, 2 or 4 vectors of output channels: 2 to the power of its level

// A tile of a convolution: some output positions, anywhere, times a block of output channels.
struct ConvTile {
  const float* const* in;  // of each position: where its first tap begins
  float* const* out;       // of each position: where the block begins
  const int64_t* taps;     // offsets from `in`, of `tap_length` consecutive floats each
  int64_t tap_count, tap_length;
  const float* weights;  // [taps × their length][the block's vectors × width]
  const float* bias;     // [the block's vectors × width]
  int64_t channels;      // of the block that exist: the last block may be partial
};

// The same over bytes, four of a position's at a time: Σ byte · weight in 32 bits, exact, then
// out = (start + Σ) · scale + bias. Up to three bytes behind a tap are read, and meet weights of zero.
struct ByteTile {
  const uint8_t* const* in;
  float* const* out;
  const int64_t* taps;  // offsets from `in`, of `tap_quads` · 4 consecutive bytes each
  int64_t tap_count, tap_quads;
  const int8_t* weights;  // [taps × their quads][the block's vectors × width][4]
  const int32_t* start;   // [the block's vectors × width], as the next two
  const float *scale, *bias;
  int64_t channels;
};

struct ByteKernels {
  int tile[kMaxLevel + 1];
  void (*conv[kMaxLevel + 1][kMaxTile])(const ByteTile&);
};

enum class Activation : int32_t { kRelu, kLeaky, kClip, kSigmoid, kHardSigmoid, kHardSwish, kSilu, kTanh, kElu, kSoftplus, kErf };

struct Kernels {
  const char* name;
  int width;  // floats in a vector
  int levels;              // that its registers hold
  int tile[kMaxLevel + 1];  // positions in a full tile, by level
  void (*conv[kMaxLevel + 1][kMaxTile])(const ConvTile&);  // [level][positions − 1]

  // out[n][i] = bias[i] + Σ_t in[n][taps[t] + i] · weights[t·channels + i] for n < count, i < channels
  void (*depthwise)(float* const* out, const float* const* in, int64_t count, const int64_t* taps, int64_t tap_count,
                    const float* weights, const float* bias, int64_t channels);
  void (*add)(float* y, const float* x, int64_t n);
  void (*subtract)(float* y, const float* x, int64_t n);
  void (*multiply)(float* y, const float* x, int64_t n);
  void (*maximum)(float* y, const float* x, int64_t n);
  void (*scale)(float* y, float by, int64_t n);
  void (*add_scaled)(float* y, const float* x, float by, int64_t n);
  void (*sum_rows)(float* y, const float* const* rows, const float* shares, int64_t count, int64_t n);  // Σ share · row
  void (*affine)(float* y, const float* scale, const float* shift, int64_t n);
  void (*prelu)(float* y, const float* slope, int64_t n);
  void (*activate)(float* y, Activation kind, float a, float b, int64_t n);
  void (*softmax)(float* y, int64_t channels, int64_t n);  // of n ÷ channels positions
  bool (*moved)(const float* x, const float* y, float limit, int64_t n);  // whether any |x[i] − y[i]| > limit

  // moved[i] = whether |now[c·area + i] − last[c·area + i]| > limit for any of the channels. False where a number of `now`
  // is NaN or infinite.
  bool (*compare)(uint8_t* moved, const float* now, const float* last, int64_t channels, int64_t area, float limit,
                  int64_t n);
  bool (*finite)(const float* x, int64_t n);  // whether all numbers are

  // Byte b stands for scale · (b − zero). Rounding is to the nearest, ties to even, and saturates.
  void (*quantize)(uint8_t* to, const float* x, float scale, int32_t zero, int64_t n);
  void (*dequantize)(float* y, const uint8_t* from, float scale, int32_t zero, int64_t n);
  void (*round)(float* y, float scale, int32_t zero, int64_t n);  // one, then the other
  void (*add_bytes)(float* y, const uint8_t* x, float scale, int32_t zero, int64_t n);

  // y[i] = (start[i] + Σ_t in[taps[t] + i] · weights[t·n + i]) · scale[i] + bias[i] for i < n
  void (*depthwise_bytes)(float* y, const uint8_t* in, const int64_t* taps, int64_t tap_count, const int8_t* weights,
                          const int32_t* start, const float* scale, const float* bias, int64_t n);
  const ByteKernels* bytes;
};

enum class Isa : int32_t { kBest, kPortable, kAvx2, kAvx512, kAvx512Vnni };

// The kernels of an instruction set; null where this processor or this build lacks it.
const Kernels* kernels_for(Isa isa);

}  // namespace foveate
