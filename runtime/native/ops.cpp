#include "ops.h"

#include <algorithm>
#include <cstring>

#include "state.h"

namespace foveate {
namespace {

constexpr int64_t kChunk = 252;      // positions whose inputs stay in the cache while blocks of channels go over them
constexpr int64_t kHeavy = 1 << 17;  // weights beyond which they, not the inputs, are what memory is busy with
constexpr int64_t kUnitsEach = 4;    // pieces of work for each thread, so that they end together
constexpr double kSmallest = 50000;  // multiply-adds that are worth handing to another thread

// One op at one piece of its positions and channels.
class Work {
 public:
  Work(const Op& op, const Plan& plan, std::vector<Buffer>& buffers, const Taps& y, const Taps& x, const Cell* cells,
       float* rows)
      : op_(op), k_(plan.kernels), buffers_(buffers), y_(y), x_(x), cells_(cells), rows_(rows),
        in_(buffers[op.in()]), out_(buffers[op.out]) {
    if (op.kind == OpKind::kConv) make_taps();
    if (op.kind == OpKind::kConvTranspose) make_phases();
  }

  // Cells [first, last) of blocks [begin, end); blocks matter to convolutions alone.
  void operator()(int64_t first, int64_t last, size_t begin, size_t end) {
    int64_t from = 0, to = out_.channels;
    switch (op_.kind) {
      case OpKind::kConv:
        if (op_.depthwise) {
          depthwise(first, last);
          break;
        }
        [[fallthrough]];
      case OpKind::kConvTranspose:
        for (size_t b = begin; b < end; b++)
          op_.kind == OpKind::kConv ? conv(op_.blocks[b], first, last) : conv_transpose(op_.blocks[b], first, last);
        from = op_.blocks[begin].first, to = op_.blocks[end - 1].first + op_.blocks[end - 1].channels;
        break;
      case OpKind::kPool: pool(first, last); break;
      case OpKind::kResize: resize(first, last); break;
      case OpKind::kCopy: copy(first, last); break;
    }
    for (const Step& step : op_.steps) apply(step, first, last, from, to);
  }

 private:
  float* out(int64_t i) const { return rows_ ? rows_ + i * out_.channels : out_.data() + cells_[i].index * out_.channels; }

  // Where the first tap of a position lies: the buffer's border stands for padding.
  const float* in(const Cell& cell) const {
    const int64_t y = cell.y * op_.y.stride - op_.y.low, x = cell.x * op_.x.stride - op_.x.low;
    return in_.data() + in_.index(y, x) * in_.channels;
  }

  // With one group and no dilation, a row of the kernel is consecutive in memory.
  void make_taps() {
    const bool rows = op_.groups == 1 && op_.x.dilation == 1;
    length_ = rows ? op_.x.kernel * in_.channels : in_.channels / op_.groups;
    for (int64_t y = 0; y < op_.y.kernel; y++)
      for (int64_t x = 0; x < (rows ? 1 : op_.x.kernel); x++)
        taps_.push_back((y * op_.y.dilation * in_.pitch + x * op_.x.dilation) * in_.channels);
  }

  void make_phases() {
    length_ = in_.channels / op_.groups;
    for (const Phase& phase : op_.phases)
      for (size_t t = 0; t < phase.back_y.size(); t++)
        taps_.push_back(-(phase.back_y[t] * in_.pitch + phase.back_x[t]) * in_.channels);
  }

  // `count` taps from `first` on, of a block.
  ConvTile tile(const Block& block, const float** ins, float** outs, int64_t first, int64_t count) const {
    const float* weights = op_.weights.data() + block.panel + first * length_ * block.vectors() * k_.width;
    return {ins, outs, taps_.data() + first, count, length_, weights, op_.bias.data() + block.bias, block.channels};
  }

  void conv(const Block& block, int64_t first, int64_t last) const {
    const float* ins[kMaxTile];
    float* outs[kMaxTile];
    const ConvTile tile = this->tile(block, ins, outs, 0, int64_t(taps_.size()));
    const int64_t offset = block.group * (in_.channels / op_.groups);
    const int64_t most = k_.tile[block.level];
    for (int64_t tiles = (last - first + most - 1) / most; tiles; tiles--) {
      const int64_t n = (last - first + tiles - 1) / tiles;  // tiles of about the same size
      for (int64_t i = 0; i < n; i++) {
        ins[i] = in(cells_[first + i]) + offset;
        outs[i] = out(first + i) + block.first;
      }
      k_.conv[block.level][n - 1](tile);
      first += n;
    }
  }

  // Outputs of one phase after the other: each is a convolution of its own.
  void conv_transpose(const Block& block, int64_t first, int64_t last) const {
    const float* ins[kMaxTile];
    float* outs[kMaxTile];
    const int64_t most = k_.tile[block.level];
    for (size_t p = 0; p < op_.phases.size(); p++) {
      const Phase& phase = op_.phases[p];
      const auto at_y = int64_t(p) / op_.x.stride, at_x = int64_t(p) % op_.x.stride;
      const ConvTile tile = this->tile(block, ins, outs, phase.panel, int64_t(phase.back_y.size()));
      int64_t n = 0;
      for (int64_t i = first; i < last; i++) {
        const int64_t y = cells_[i].y + op_.y.low, x = cells_[i].x + op_.x.low;
        if (y % op_.y.stride != at_y || x % op_.x.stride != at_x) continue;
        ins[n] = in_.data() + in_.index(y / op_.y.stride, x / op_.x.stride) * in_.channels + block.group * length_;
        outs[n++] = out(i) + block.first;
        if (n == most) k_.conv[block.level][n - 1](tile), n = 0;
      }
      if (n) k_.conv[block.level][n - 1](tile);
    }
  }

  void depthwise(int64_t first, int64_t last) const {
    for (int64_t i = first; i < last; i++) {
      float* y = out(i);
      std::copy(op_.bias.begin(), op_.bias.end(), y);
      k_.depthwise(y, in(cells_[i]), taps_.data(), int64_t(taps_.size()), op_.weights.data(), out_.channels,
                   out_.channels);
    }
  }

  void pool(int64_t first, int64_t last) const {
    const int64_t n = out_.channels;
    for (int64_t i = first; i < last; i++) {
      float* y = out(i);
      int64_t count = 0;
      each_inside(cells_[i], [&](const float* x) {
        if (!count++)
          std::copy_n(x, n, y);
        else
          (op_.pool == PoolKind::kMax ? k_.maximum : k_.add)(y, x, n);
      });
      if (op_.pool == PoolKind::kMax) continue;
      if (op_.pool == PoolKind::kAverageWithPadding)
        count = op_.y.padded_taps(cells_[i].y, in_.size.height) * op_.x.padded_taps(cells_[i].x, in_.size.width);
      k_.scale(y, 1.f / float(count), n);
    }
  }

  // Calls f(channels) for the inputs of an output that lie in the image.
  template <class F>
  void each_inside(const Cell& cell, F f) const {
    for (int64_t ky = 0; ky < op_.y.kernel; ky++) {
      const int64_t y = cell.y * op_.y.stride - op_.y.low + ky * op_.y.dilation;
      if (y < 0 || y >= in_.size.height) continue;
      for (int64_t kx = 0; kx < op_.x.kernel; kx++) {
        const int64_t x = cell.x * op_.x.stride - op_.x.low + kx * op_.x.dilation;
        if (x >= 0 && x < in_.size.width) f(in_.data() + in_.index(y, x) * in_.channels);
      }
    }
  }

  void resize(int64_t first, int64_t last) const {
    const int64_t n = out_.channels;
    const auto at = [&](int64_t y, int64_t x) { return in_.data() + in_.index(y, x) * n; };
    for (int64_t i = first; i < last; i++) {
      const Cell& cell = cells_[i];
      float* y = out(i);
      const int64_t top = y_.first[cell.y], left = x_.first[cell.x];
      if (op_.resize == ResizeKind::kNearest) {
        std::copy_n(at(top, left), n, y);
        continue;
      }
      const int64_t bottom = y_.last[cell.y], right = x_.last[cell.x];
      const float down = y_.share[cell.y], across = x_.share[cell.x];
      std::fill_n(y, n, 0.f);
      k_.add_scaled(y, at(top, left), (1 - down) * (1 - across), n);
      if (across > 0) k_.add_scaled(y, at(top, right), (1 - down) * across, n);
      if (down > 0) k_.add_scaled(y, at(bottom, left), down * (1 - across), n);
      if (down > 0 && across > 0) k_.add_scaled(y, at(bottom, right), down * across, n);
    }
  }

  void copy(int64_t first, int64_t last) const {
    for (const Part& part : op_.parts) {
      const Buffer& from = buffers_[part.tensor];
      for (int64_t i = first; i < last; i++)
        std::copy_n(from.data() + cells_[i].index * from.channels + part.from, part.count,
                    out(i) + part.to);
    }
  }

  // A step for channels [from, to): in one go for consecutive positions, where it treats them all alike.
  void apply(const Step& step, int64_t first, int64_t last, int64_t from, int64_t to) const {
    const Buffer* other = step.tensor >= 0 ? &buffers_[step.tensor] : nullptr;
    const bool per_position =
        step.kind == StepKind::kMultiplyMap || step.kind == StepKind::kAffine || step.kind == StepKind::kPrelu;
    const bool joined = !per_position && to - from == out_.channels;
    for (int64_t i = first; i < last;) {
      int64_t end = i + 1;
      while (joined && end < last && cells_[end].index == cells_[end - 1].index + 1) end++;
      const int64_t n = (end - i - 1) * out_.channels + to - from;
      float* y = out(i) + from;
      const float* x = other ? other->data() + cells_[i].index * other->channels : nullptr;
      switch (step.kind) {
        case StepKind::kAdd: k_.add(y, x + from, n); break;
        case StepKind::kSubtract: k_.subtract(y, x + from, n); break;
        case StepKind::kMultiply: k_.multiply(y, x + from, n); break;
        case StepKind::kMultiplyMap:
          if (*x != 1.f) k_.scale(y, *x, n);
          break;
        case StepKind::kAffine: k_.affine(y, step.a.data() + from, step.b.data() + from, n); break;
        case StepKind::kPrelu: k_.prelu(y, step.a.data() + from, n); break;
        case StepKind::kActivate: k_.activate(y, step.activation, step.a[0], step.a[1], n); break;
        case StepKind::kSoftmax: k_.softmax(y, out_.channels, n); break;
      }
      i = end;
    }
  }

  const Op& op_;
  const Kernels& k_;
  std::vector<Buffer>& buffers_;
  const Taps &y_, &x_;
  const Cell* cells_;
  float* rows_;
  const Buffer& in_;
  Buffer& out_;
  std::vector<int64_t> taps_;
  int64_t length_ = 0;
};

// Pieces of work: chunks of positions times parts of the blocks of output channels.
struct Split {
  int64_t chunks, parts, blocks;
};

// At least `wanted` pieces, where there is enough to do. Each chunk reads the weights anew, each part the inputs: what
// is larger should be read less often. A softmax takes all channels of a position at once.
Split divide(const Op& op, int64_t count, int64_t tile, int64_t wanted) {
  const int64_t blocks = std::max<int64_t>(1, int64_t(op.blocks.size()));
  const int64_t most = std::max<int64_t>(1, count / (2 * tile));  // chunks of two tiles at least
  const int64_t least = std::min(most, (count + kChunk - 1) / kChunk);
  int64_t chunks = std::clamp(wanted, least, most);
  if (int64_t(op.weights.size()) > kHeavy) chunks = std::clamp((wanted + blocks - 1) / blocks, least, most);
  const bool whole = std::any_of(op.steps.begin(), op.steps.end(), [](const Step& s) { return s.kind == StepKind::kSoftmax; });
  return {chunks, whole ? 1 : std::clamp<int64_t>((wanted + chunks - 1) / chunks, 1, blocks), blocks};
}

}  // namespace

void compute(const Op& op, const Plan& plan, std::vector<Buffer>& buffers, const Taps& y, const Taps& x,
             const std::vector<Cell>& cells, Pool::Run& run, float* rows) {
  const auto count = int64_t(cells.size());
  if (!count) return;
  Work work(op, plan, buffers, y, x, cells.data(), rows);
  const bool alone = run.threads() == 1 || op.work * double(count) < kSmallest;
  const Split split = divide(op, count, plan.kernels.tile[0], alone ? 1 : run.threads() * kUnitsEach);
  run.each(split.chunks * split.parts, [&](int64_t unit) {
    const int64_t chunk = unit / split.parts, part = unit % split.parts;
    work(count * chunk / split.chunks, count * (chunk + 1) / split.chunks, size_t(split.blocks * part / split.parts),
         size_t(split.blocks * (part + 1) / split.parts));
  });
}

}  // namespace foveate
