#include "ops.h"

#include <algorithm>
#include <cstring>

#include "state.h"

namespace foveate {
namespace {

constexpr int64_t kChunk = 252;      // positions whose inputs stay in the cache while blocks of channels go over them
constexpr int64_t kHeavy = 1 << 19;  // bytes of weights beyond which they, not the inputs, are what memory is busy with
constexpr int64_t kRows = 42;        // positions of one block whose floats stay in the nearest cache until they are bytes
constexpr int64_t kUnitsEach = 4;    // pieces of work for each thread, so that they end together
constexpr int64_t kDepthwise = 12;   // positions of a depthwise convolution at a time: two tiles
constexpr int64_t kLine = 64;        // bytes of the cache
constexpr double kSmallest = 50000;  // multiply-adds that are worth handing to another thread

// Where floats go: channels from `first` on, of positions from `origin` on. Without rows, into the op's buffer.
struct Target {
  float* rows = nullptr;
  int64_t origin = 0, pitch = 0, first = 0;
};

// One op at one piece of its positions and channels.
class Work {
 public:
  Work(const Op& op, const Plan& plan, std::vector<Buffer>& buffers, const Taps& y, const Taps& x, const Cell* cells,
       float* rows)
      : op_(op), k_(plan.kernels), buffers_(buffers), y_(y), x_(x), cells_(cells), rows_(rows),
        in_(buffers[op.in()]), out_(buffers[op.out]) {
    if (op.convolves()) make_taps();
    if (op.kind == OpKind::kConvTranspose) make_phases();
  }

  // Cells [first, last) of blocks [begin, end); blocks matter to convolutions alone.
  void operator()(int64_t first, int64_t last, size_t begin, size_t end) const {
    if (rows_) return piece(first, last, begin, end, {rows_, 0, out_.channels, 0});
    if (!out_.format.bytes()) return piece(first, last, begin, end, {});
    if (op_.blocks.empty() || op_.whole()) return bytes(first, last, begin, end);
    for (size_t b = begin; b < end; b++) bytes(first, last, b, b + 1);
  }

 private:
  // Steps are done to floats: they become bytes a few positions at a time.
  void bytes(int64_t first, int64_t last, size_t begin, size_t end) const {
    const auto [from, to] = channels(begin, end);
    static thread_local Floats rows;
    if (int64_t(rows.size()) < kRows * (to - from)) rows.resize(kRows * (to - from));
    for (; first < last; first += kRows) {
      const int64_t stop = std::min(first + kRows, last);
      piece(first, stop, begin, end, {rows.data(), first, to - from, from});
      for (int64_t i = first; i < stop; i++)
        keep(k_, rows.data() + (i - first) * (to - from), to - from, out_, cells_[i].index * out_.channels + from);
    }
  }

  void piece(int64_t first, int64_t last, size_t begin, size_t end, const Target& target) const {
    switch (op_.kind) {
      case OpKind::kConv:
      case OpKind::kConvInteger:
        if (op_.depthwise) {
          depthwise(first, last, target);
          break;
        }
        for (size_t b = begin; b < end; b++)
          op_.kind == OpKind::kConv ? conv(op_.blocks[b], first, last, target)
                                    : conv_integer(op_.blocks[b], first, last, target);
        break;
      case OpKind::kConvTranspose:
        for (size_t b = begin; b < end; b++) conv_transpose(op_.blocks[b], first, last, target);
        break;
      case OpKind::kPool: pool(first, last, target); break;
      case OpKind::kResize: resize(first, last, target); break;
      case OpKind::kCopy: copy(first, last, target); break;
    }
    const auto [from, to] = channels(begin, end);
    for (const Step& step : op_.steps) apply(step, first, last, from, to, target);
  }

  std::pair<int64_t, int64_t> channels(size_t begin, size_t end) const {
    if (op_.blocks.empty()) return {0, out_.channels};
    return {op_.blocks[begin].first, op_.blocks[end - 1].first + op_.blocks[end - 1].channels};
  }

  // Position i's result, at a channel.
  float* out(int64_t i, const Target& target, int64_t channel = 0) const {
    return target.rows ? target.rows + (i - target.origin) * target.pitch + channel - target.first
                       : out_.data() + cells_[i].index * out_.channels + channel;
  }

  // Where the first tap of a position lies: the buffer's border stands for padding.
  int64_t in(const Cell& cell) const {
    const int64_t y = cell.y * op_.y.stride - op_.y.low, x = cell.x * op_.x.stride - op_.x.low;
    return in_.index(y, x) * in_.channels;
  }

  // `n` channels of a position as floats.
  const float* values(const Buffer& buffer, int64_t index, int64_t first, int64_t n, Floats& room) const {
    return numbers(k_, buffer, index * buffer.channels + first, n, room);
  }

  // With one group and no dilation, a row of the kernel is consecutive in memory.
  void make_taps() {
    const bool rows = op_.row_taps();
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

  void conv(const Block& block, int64_t first, int64_t last, const Target& target) const {
    const float* ins[kMaxTile];
    float* outs[kMaxTile];
    const ConvTile tile = this->tile(block, ins, outs, 0, int64_t(taps_.size()));
    tiles(block, first, last, target, in_.data(), ins, outs, k_.tile[block.level],
          [&](int64_t n) { k_.conv[block.level][n - 1](tile); });
  }

  void conv_integer(const Block& block, int64_t first, int64_t last, const Target& target) const {
    const uint8_t* ins[kMaxTile];
    float* outs[kMaxTile];
    const ByteTile tile{ins, outs, taps_.data(), int64_t(taps_.size()), (length_ + 3) / 4,
                        op_.byte_weights.data() + block.panel, op_.start.data() + block.bias,
                        op_.scale.data() + block.bias, op_.bias.data() + block.bias, block.channels};
    tiles(block, first, last, target, in_.bytes(), ins, outs, k_.bytes->tile[block.level],
          [&](int64_t n) { k_.bytes->conv[block.level][n - 1](tile); });
  }

  // Asks for channels of the op's buffer that are soon written, or compared.
  void fetch(int64_t first, int64_t last, int64_t from, int64_t count) const {
    const int64_t size = out_.format.size();
    for (int64_t i = first; i < last; i++) {
      const uint8_t* at = out_.bytes() + (cells_[i].index * out_.channels + from) * size;
      for (int64_t byte = 0; byte < count * size; byte += kLine) __builtin_prefetch(at + byte, 1);
    }
  }

  // Sets the addresses of a tile and calls run(its positions), for tiles of at most that many.
  template <class T, class F>
  void tiles(const Block& block, int64_t first, int64_t last, const Target& target, const T* data, const T** ins,
             float** outs, int64_t most, F run) const {
    data += block.group * (in_.channels / op_.groups);
    for (int64_t tiles = (last - first + most - 1) / most; tiles; tiles--) {
      const int64_t n = (last - first + tiles - 1) / tiles;  // tiles of about the same size
      for (int64_t i = 0; i < n; i++) {
        ins[i] = data + in(cells_[first + i]);
        outs[i] = out(first + i, target, block.first);
      }
      fetch(first + n, std::min(first + 2 * n, last), block.first, block.channels);
      run(n);
      first += n;
    }
  }

  // Outputs of one phase after the other: each is a convolution of its own.
  void conv_transpose(const Block& block, int64_t first, int64_t last, const Target& target) const {
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
        outs[n++] = out(i, target, block.first);
        if (n == most) k_.conv[block.level][n - 1](tile), n = 0;
      }
      if (n) k_.conv[block.level][n - 1](tile);
    }
  }

  void depthwise(int64_t first, int64_t last, const Target& target) const {
    const auto count = int64_t(taps_.size());
    if (op_.kind == OpKind::kConvInteger) {
      for (int64_t i = first; i < last; i++)
        k_.depthwise_bytes(out(i, target), in_.bytes() + in(cells_[i]), taps_.data(), count, op_.byte_weights.data(),
                           op_.start.data(), op_.scale.data(), op_.bias.data(), out_.channels);
      return;
    }
    const float* ins[kMaxTile];
    float* outs[kMaxTile];
    for (int64_t n; first < last; first += n) {
      n = std::min<int64_t>(kDepthwise, last - first);
      for (int64_t i = 0; i < n; i++) ins[i] = in_.data() + in(cells_[first + i]), outs[i] = out(first + i, target);
      k_.depthwise(outs, ins, n, taps_.data(), count, op_.weights.data(), op_.bias.data(), out_.channels);
    }
  }

  void pool(int64_t first, int64_t last, const Target& target) const {
    const int64_t n = out_.channels;
    Floats room;
    for (int64_t i = first; i < last; i++) {
      float* y = out(i, target);
      int64_t count = 0;
      each_inside(cells_[i], [&](int64_t index) {
        const float* x = values(in_, index, 0, n, room);
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

  // Calls f(index) for the inputs of an output that lie in the image.
  template <class F>
  void each_inside(const Cell& cell, F f) const {
    for (int64_t ky = 0; ky < op_.y.kernel; ky++) {
      const int64_t y = cell.y * op_.y.stride - op_.y.low + ky * op_.y.dilation;
      if (y < 0 || y >= in_.size.height) continue;
      for (int64_t kx = 0; kx < op_.x.kernel; kx++) {
        const int64_t x = cell.x * op_.x.stride - op_.x.low + kx * op_.x.dilation;
        if (x >= 0 && x < in_.size.width) f(in_.index(y, x));
      }
    }
  }

  void resize(int64_t first, int64_t last, const Target& target) const {
    const int64_t n = out_.channels;
    Floats room;
    const auto at = [&](int64_t y, int64_t x) { return values(in_, in_.index(y, x), 0, n, room); };
    for (int64_t i = first; i < last; i++) {
      const Cell& cell = cells_[i];
      float* y = out(i, target);
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

  void copy(int64_t first, int64_t last, const Target& target) const {
    Floats room;
    for (const Part& part : op_.parts)
      for (int64_t i = first; i < last; i++)
        std::copy_n(values(buffers_[part.tensor], cells_[i].index, part.from, part.count, room), part.count,
                    out(i, target, part.to));
  }

  // A step for channels [from, to): in one go for consecutive positions, where it treats them all alike.
  void apply(const Step& step, int64_t first, int64_t last, int64_t from, int64_t to, const Target& target) const {
    const Buffer* other = step.tensor >= 0 ? &buffers_[step.tensor] : nullptr;
    const bool per_position =
        step.kind == StepKind::kMultiplyMap || step.kind == StepKind::kAffine || step.kind == StepKind::kPrelu;
    const int64_t width = to - from;
    const bool joined = !per_position && width == (target.rows ? target.pitch : out_.channels) &&
                        !(other && (target.rows || other->format.bytes()));
    Floats room;
    for (int64_t i = first; i < last;) {
      int64_t end = i + 1;
      while (joined && end < last && (target.rows || cells_[end].index == cells_[end - 1].index + 1)) end++;
      const int64_t n = (end - i) * width;
      float* y = out(i, target, from);
      const int64_t index = cells_[i].index;
      switch (step.kind) {
        case StepKind::kAdd:
          if (const Format& format = other->format; format.bytes())
            k_.add_bytes(y, other->bytes() + index * other->channels + from, format.scale, format.zero, n);
          else
            k_.add(y, other->data() + index * other->channels + from, n);
          break;
        case StepKind::kSubtract: k_.subtract(y, values(*other, index, from, n, room), n); break;
        case StepKind::kMultiply: k_.multiply(y, values(*other, index, from, n, room), n); break;
        case StepKind::kMultiplyMap:
          if (const float by = *values(*other, index, 0, 1, room); by != 1.f) k_.scale(y, by, n);
          break;
        case StepKind::kAffine: k_.affine(y, step.a.data() + from, step.b.data() + from, n); break;
        case StepKind::kPrelu: k_.prelu(y, step.a.data() + from, n); break;
        case StepKind::kActivate: k_.activate(y, step.activation, step.a[0], step.a[1], n); break;
        case StepKind::kSoftmax: k_.softmax(y, out_.channels, n); break;
        case StepKind::kRound: k_.round(y, step.format.scale, step.format.zero, n); break;
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
  if (op.weight_bytes() > kHeavy) chunks = std::clamp((wanted + blocks - 1) / blocks, least, most);
  return {chunks, op.whole() ? 1 : std::clamp<int64_t>((wanted + chunks - 1) / chunks, 1, blocks), blocks};
}

}  // namespace

const float* numbers(const Kernels& kernels, const Buffer& from, int64_t at, int64_t n, Floats& room) {
  if (!from.format.bytes()) return from.data() + at;
  if (int64_t(room.size()) < n) room.resize(n);
  kernels.dequantize(room.data(), from.bytes() + at, from.format.scale, from.format.zero, n);
  return room.data();
}

void keep(const Kernels& kernels, const float* from, int64_t n, Buffer& to, int64_t at) {
  if (to.format.bytes())
    kernels.quantize(to.bytes() + at, from, to.format.scale, to.format.zero, n);
  else
    std::copy_n(from, n, to.data() + at);
}

void compute(const Op& op, const Plan& plan, std::vector<Buffer>& buffers, const Taps& y, const Taps& x,
             const std::vector<Cell>& cells, Pool::Run& run, float* rows, const Settle& settle) {
  const auto count = int64_t(cells.size());
  if (!count) return;
  Work work(op, plan, buffers, y, x, cells.data(), rows);
  const bool alone = run.threads() == 1 || op.work * double(count) < kSmallest;
  const Split split = divide(op, count, plan.kernels.tile[0], alone ? 1 : run.threads() * kUnitsEach);
  run.each(split.chunks * split.parts, [&](int64_t unit) {
    const int64_t chunk = unit / split.parts, part = unit % split.parts;
    const int64_t first = count * chunk / split.chunks, last = count * (chunk + 1) / split.chunks;
    work(first, last, size_t(split.blocks * part / split.parts), size_t(split.blocks * (part + 1) / split.parts));
    if (rows && split.parts == 1) settle(first, last);  // while it is in the cache
  });
  if (!rows || split.parts == 1) return;
  run.each(split.chunks, [&](int64_t i) { settle(count * i / split.chunks, count * (i + 1) / split.chunks); });
}

}  // namespace foveate
