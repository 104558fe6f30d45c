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

enum class Activation : int32_t { kRelu, kLeaky, kClip, kSigmoid, kHardSigmoid, kHardSwish, kSilu, kTanh, kElu, kSoftplus, kErf };

struct Kernels {
  const char* name;
  int width;  // floats in a vector
  int levels;              // that its registers hold
  int tile[kMaxLevel + 1];  // positions in a full tile, by level
  void (*conv[kMaxLevel + 1][kMaxTile])(const ConvTile&);  // [level][positions − 1]

  // y[i] += Σ_t in[taps[t] + i] · weights[t·stride + i] for i < n
  void (*depthwise)(float* y, const float* in, const int64_t* taps, int64_t tap_count, const float* weights,
                    int64_t stride, int64_t n);
  void (*add)(float* y, const float* x, int64_t n);
  void (*subtract)(float* y, const float* x, int64_t n);
  void (*multiply)(float* y, const float* x, int64_t n);
  void (*maximum)(float* y, const float* x, int64_t n);
  void (*scale)(float* y, float by, int64_t n);
  void (*add_scaled)(float* y, const float* x, float by, int64_t n);
  void (*affine)(float* y, const float* scale, const float* shift, int64_t n);
  void (*prelu)(float* y, const float* slope, int64_t n);
  void (*activate)(float* y, Activation kind, float a, float b, int64_t n);
  void (*softmax)(float* y, int64_t channels, int64_t n);  // of n ÷ channels positions
  bool (*moved)(const float* x, const float* y, float limit, int64_t n);  // whether any |x[i] − y[i]| > limit
};

enum class Isa : int32_t { kBest, kPortable, kAvx2, kAvx512 };

// The kernels of an instruction set; null where this processor or this build lacks it.
const Kernels* kernels_for(Isa isa);

}  // namespace foveate
