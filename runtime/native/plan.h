// A plan: the ops of a local segment with their packed weights. Immutable, and shared by all states and threads.
#pragma once
#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "floats.h"
#include "kernels.h"

namespace foveate {

// What is wrong with a plan or with what it is given, in words.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Along one axis, output o reads inputs o·stride − low + k·dilation for 0 ≤ k < kernel.
struct Axis {
  int64_t kernel = 1, stride = 1, dilation = 1, low = 0, high = 0;
  bool ceil = false;  // a last output may read beyond the padding, but must begin before it
  int64_t outputs(int64_t inputs) const {
    const int64_t spare = inputs + low + high - dilation * (kernel - 1) - 1;
    if (spare < 0) return 0;
    const int64_t more = ceil && spare % stride && (spare / stride + 1) * stride < inputs + low;
    return spare / stride + 1 + more;
  }
  // The other way round: input i adds to outputs i·stride − low + k·dilation.
  int64_t transposed_outputs(int64_t inputs) const { return (inputs - 1) * stride - low - high + dilation * (kernel - 1) + 1; }
  // Taps of an output that lie in the image or its padding.
  int64_t padded_taps(int64_t output, int64_t inputs) const {
    const int64_t room = inputs + high - (output * stride - low);
    return std::min(kernel, (room + dilation - 1) / dilation);
  }
};

enum class OpKind : int64_t { kConv, kPool, kResize, kCopy, kConvTranspose, kConvInteger };
enum class PoolKind : int64_t { kMax, kAverage, kAverageWithPadding };
enum class ResizeKind : int64_t { kNearest, kLinear };
enum class Coordinates : int64_t { kHalfPixel, kPytorchHalfPixel, kAsymmetric };
enum class Rounding : int64_t { kPreferFloor, kPreferCeil, kFloor, kCeil };
enum class StepKind : int64_t { kAdd, kSubtract, kMultiply, kMultiplyMap, kAffine, kPrelu, kActivate, kSoftmax, kRound };

// Byte b stands for scale · (b − zero). A scale of 0: the numbers are floats.
struct Format {
  float scale = 0;
  int32_t zero = 0;
  bool bytes() const { return scale > 0; }
  int64_t size() const { return bytes() ? 1 : sizeof(float); }  // of a number
};

// What is done to an op's output in place, position by position. `tensor` of the first four, which has the output's
// size: its channels too, but one alone for kMultiplyMap. The parameters are numbers of channels long.
struct Step {
  StepKind kind = StepKind::kAdd;
  int tensor = -1;
  Activation activation = Activation::kRelu;
  Format format;  // of kRound: to what it can hold
  std::vector<float> a, b;
};

// Channels that kCopy takes over.
struct Part {
  int tensor;
  int64_t from, count, to;
};

// A block of output channels, of 2 to the power of `level` vectors: its weights stand at `panel`, [taps × their
// length][vectors × width], those of bytes as kernels.h has them.
struct Block {
  int64_t group, first, channels, level, panel, bias;
  int64_t vectors() const { return INT64_C(1) << level; }
};

// Outputs of a transposed convolution that are alike in (o + low) modulo stride read the same taps of the kernel: inputs
// (o + low) ÷ stride − back. Their weights stand at `panel` of each block's.
struct Phase {
  std::vector<int64_t> back_y, back_x;  // of each tap
  int64_t panel;                        // in taps
};

struct Op {
  OpKind kind = OpKind::kCopy;
  int out = -1;
  std::vector<Part> parts;  // one, whole, but for kCopy
  Axis y, x;
  int64_t groups = 1;
  bool depthwise = false;
  PoolKind pool = PoolKind::kMax;
  ResizeKind resize = ResizeKind::kNearest;
  Coordinates coordinates = Coordinates::kHalfPixel;
  Rounding rounding = Rounding::kPreferFloor;
  float scale_y = 1, scale_x = 1;
  std::vector<Step> steps;
  std::vector<Block> blocks;
  std::vector<Phase> phases;         // stride by stride, of kConvTranspose
  Floats weights, bias;              // packed
  // Of kConvInteger, which makes (start + Σ byte · weight) · scale + bias: packed, too.
  std::vector<int8_t, Aligned<int8_t>> byte_weights;
  std::vector<int32_t> start;
  Floats scale;
  double work = 0;                   // multiply-adds at one output position

  int in() const { return parts[0].tensor; }
  bool convolves() const { return kind == OpKind::kConv || kind == OpKind::kConvInteger; }
  // A row of the kernel is consecutive in memory: one tap.
  bool row_taps() const { return groups == 1 && x.dilation == 1; }
  // All channels of a position are made together.
  bool whole() const {
    return std::any_of(steps.begin(), steps.end(), [](const Step& s) { return s.kind == StepKind::kSoftmax; });
  }
  int64_t weight_bytes() const { return int64_t(weights.size() * sizeof(float) + byte_weights.size()); }
};

struct Tensor {
  int64_t channels = 0;
  bool input = false, mask = false, output = false;
  Format format;
};

struct Plan {
  // Decodes `words`, whose numbers of parameters lie in `params`. Throws Error.
  Plan(const int64_t* words, int64_t count, const float* params, int64_t param_count, const Kernels& kernels);

  const Kernels& kernels;
  std::vector<Tensor> tensors;
  std::vector<int> inputs, outputs;
  std::vector<Op> ops;  // each after what it reads
};

}  // namespace foveate
