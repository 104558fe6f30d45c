#include "state.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <set>
#include <string>

#include "layout.h"
#include "ops.h"

namespace foveate {
namespace {

constexpr int64_t kLargest = 1 << 15;              // of a side: cells hold it in 16 bits
constexpr int64_t kPiece = 512;                    // positions that a thread copies at a time
constexpr int64_t kMostFloats = INT64_C(1) << 31;  // of a buffer
constexpr int64_t kBehind = 3;                     // bytes behind a buffer that a convolution may read

std::string words(Size size) { return std::to_string(size.height) + "×" + std::to_string(size.width); }

void check(Size size, Size input) {
  if (size.height < 1 || size.width < 1 || size.height > kLargest || size.width > kLargest)
    throw Error("an input of " + words(input) + " makes a tensor of " + words(size));
}

bool is_zero(const Buffer& buffer) {
  const Bytes& bytes = buffer.memory->bytes;
  if (buffer.format.bytes()) return std::all_of(bytes.begin(), bytes.end(), [&](uint8_t b) { return b == buffer.zero(); });
  const float *begin = buffer.data(), *end = begin + buffer.rows * buffer.pitch * buffer.channels;
  return std::all_of(begin, end, [](float v) { return v == 0.f; });
}

// Calls f(first, n) for the runs of consecutive positions, in pieces that threads share.
template <class F>
void each_run(Pool::Run& run, const std::vector<Cell>& cells, F f) {
  const auto count = int64_t(cells.size());
  run.each((count + kPiece - 1) / kPiece, [&](int64_t piece) {
    const int64_t end = std::min(count, (piece + 1) * kPiece);
    for (int64_t i = piece * kPiece; i < end;) {
      int64_t next = i + 1;
      while (next < end && cells[next].index == cells[next - 1].index + 1) next++;
      f(cells[i], next - i);
      i = next;
    }
  });
}

}  // namespace

State::State(std::shared_ptr<const Plan> plan, const std::vector<Size>& sizes, int64_t limit) : plan_(std::move(plan)) {
  measure(sizes);
  const int64_t bytes = lay_out();
  if (bytes > limit)
    throw Error("a state of " + std::to_string(bytes) + " bytes, where " + std::to_string(limit) + " are allowed");
  allocate();
  cells_.assign(plan_->ops.size(), std::make_shared<std::vector<Cell>>());
}

int64_t State::need(std::shared_ptr<const Plan> plan, const std::vector<Size>& sizes) {
  State state(std::move(plan));
  state.measure(sizes);
  return state.lay_out();
}

// The size of every tensor.
void State::measure(const std::vector<Size>& sizes) {
  const Plan& plan = *plan_;
  buffers_.resize(plan.tensors.size());
  for (size_t i = 0; i < plan.inputs.size(); i++) {
    check(sizes[i], sizes[i]);
    buffers_[plan.inputs[i]].size = sizes[i];
  }
  taps_y_.resize(plan.ops.size()), taps_x_.resize(plan.ops.size());
  for (size_t i = 0; i < plan.ops.size(); i++) {
    const Op& op = plan.ops[i];
    const Size in = buffers_[op.in()].size;
    Size out = in;
    if (op.convolves() || op.kind == OpKind::kPool) {
      out = {op.y.outputs(in.height), op.x.outputs(in.width)};
    } else if (op.kind == OpKind::kConvTranspose) {
      out = {op.y.transposed_outputs(in.height), op.x.transposed_outputs(in.width)};
    } else if (op.kind == OpKind::kResize) {
      out = {int64_t(float(in.height) * op.scale_y), int64_t(float(in.width) * op.scale_x)};
    }
    check(out, sizes[0]);
    if (op.kind == OpKind::kResize) {
      taps_y_[i] = resize_taps(op, op.scale_y, in.height, out.height);
      taps_x_[i] = resize_taps(op, op.scale_x, in.width, out.width);
    }
    for (const Part& part : op.parts)
      if (op.kind == OpKind::kCopy && !(buffers_[part.tensor].size == out))
        throw Error("joins tensors of " + words(out) + " and " + words(buffers_[part.tensor].size));
    for (const Step& step : op.steps)
      if (step.tensor >= 0 && !(buffers_[step.tensor].size == out))
        throw Error("combines tensors of " + words(out) + " and " + words(buffers_[step.tensor].size));
    buffers_[op.out].size = out;
  }
}

// Borders, the same for all tensors of a size. Returns the bytes of all buffers.
int64_t State::lay_out() {
  const Plan& plan = *plan_;
  struct Border {
    int64_t top = 0, left = 0, bottom = 0, right = 0;
  };
  std::map<std::pair<int64_t, int64_t>, Border> borders;
  for (const Op& op : plan.ops) {
    if (!op.convolves() && op.kind != OpKind::kConvTranspose) continue;
    const Size in = buffers_[op.in()].size, out = buffers_[op.out].size;
    Border& border = borders[{in.height, in.width}];
    if (op.kind == OpKind::kConvTranspose) {
      const auto low = [](const Axis& axis) { return axis.dilation * (axis.kernel - 1) / axis.stride; };
      const auto high = [](const Axis& axis, int64_t inputs, int64_t outputs) {
        return (outputs - 1 + axis.low) / axis.stride - (inputs - 1);
      };
      border.top = std::max(border.top, low(op.y)), border.left = std::max(border.left, low(op.x));
      border.bottom = std::max(border.bottom, high(op.y, in.height, out.height));
      border.right = std::max(border.right, high(op.x, in.width, out.width));
      continue;
    }
    const auto beyond = [](const Axis& axis, int64_t inputs, int64_t outputs) {
      return (outputs - 1) * axis.stride + (axis.kernel - 1) * axis.dilation - axis.low - (inputs - 1);
    };
    border.top = std::max(border.top, op.y.low), border.left = std::max(border.left, op.x.low);
    border.bottom = std::max(border.bottom, beyond(op.y, in.height, out.height));
    border.right = std::max(border.right, beyond(op.x, in.width, out.width));
  }
  int64_t bytes = 0;
  for (size_t i = 0; i < buffers_.size(); i++) {
    Buffer& buffer = buffers_[i];
    if (!buffer.size.count()) continue;  // nothing makes it
    const Border& border = borders[{buffer.size.height, buffer.size.width}];
    buffer.top = border.top, buffer.left = border.left, buffer.channels = plan.tensors[i].channels;
    buffer.format = plan.tensors[i].format;
    buffer.rows = buffer.size.height + border.top + border.bottom;
    buffer.pitch = buffer.size.width + border.left + border.right;
    if (buffer.rows * buffer.pitch > INT32_MAX || buffer.rows * buffer.pitch > kMostFloats / buffer.channels)
      throw Error("a tensor of " + words(buffer.size) + " is too large");
    bytes += buffer.nbytes();
  }
  return bytes;
}

void State::allocate() {
  const Plan& plan = *plan_;
  for (Buffer& buffer : buffers_) {
    buffer.memory = std::make_shared<Memory>();
    buffer.memory->bytes.assign(buffer.nbytes() + kBehind, buffer.zero());
  }
  readers_.resize(buffers_.size());
  for (size_t i = 0; i < plan.ops.size(); i++) {
    for (const Part& part : plan.ops[i].parts) readers_[part.tensor].push_back(i);
    for (const Step& step : plan.ops[i].steps)
      if (step.tensor >= 0) readers_[step.tensor].push_back(i);
  }
}

// Tensors that are zero in the reference need no memory of their own once everything has read them.
void State::share() {
  const Plan& plan = *plan_;
  std::map<std::array<int64_t, 4>, std::vector<std::shared_ptr<Memory>>> idle;
  const auto shape = [&](int id) {
    const Buffer& buffer = buffers_[id];
    return std::array<int64_t, 4>{buffer.size.height, buffer.size.width, buffer.stride(), buffer.zero()};
  };
  const auto shares = [&](int id) { return !plan.tensors[id].input && buffers_[id].reference.empty(); };
  for (size_t i = 0; i < plan.ops.size(); i++) {
    const int out = plan.ops[i].out;
    if (shares(out) && !idle[shape(out)].empty()) {
      buffers_[out].memory = idle[shape(out)].back();
      idle[shape(out)].pop_back();
    }
    for (size_t id = 0; id < buffers_.size(); id++) {
      const bool last = !readers_[id].empty() && readers_[id].back() == i && !plan.tensors[id].output;
      if (last && shares(int(id))) idle[shape(int(id))].push_back(buffers_[id].memory);
    }
  }
}

int64_t State::bytes() const {
  auto bytes = int64_t(rows_.size() * sizeof(float));
  std::set<const Memory*> seen;
  for (const Buffer& buffer : buffers_) {
    bytes += int64_t(buffer.reference.size());
    if (buffer.memory && seen.insert(buffer.memory.get()).second) bytes += int64_t(buffer.memory->bytes.size());
  }
  return bytes;
}

Positions State::full(Size size) {
  Positions& found = full_[{size.height, size.width}];
  if (!found) found = std::make_shared<Map>(size, true);
  return found;
}

Positions State::empty(Size size) {
  Positions& found = empty_[{size.height, size.width}];
  if (!found) found = std::make_shared<Map>(size);
  return found;
}

// Which positions of each tensor differ: of the inputs, and of what lies behind them.
std::vector<Positions> State::spread(const uint8_t* const* dirty, bool behind) {
  const Plan& plan = *plan_;
  std::vector<Positions> differs(buffers_.size());
  for (size_t i = 0; i < plan.inputs.size(); i++) {
    const int id = plan.inputs[i];
    const Size size = buffers_[id].size;
    differs[id] = dirty && dirty[i] ? std::make_shared<const Map>(size, dirty[i]) : full(size);
  }
  for (size_t i = 0; behind && i < plan.ops.size(); i++)
    differs[plan.ops[i].out] = dirty_after(plan.ops[i], differs);
  return differs;
}

void State::follow(const uint8_t* const* dirty, double* work) {
  streams_ = true;
  done_ = 0;
  cells_by_map_.clear();
  bool whole = true;
  for (size_t i = 0; i < plan_->inputs.size(); i++) whole = whole && !(dirty && dirty[i]);
  const bool open = !limits_.empty() && !whole;  // how far it spreads is known once it is computed
  differs_ = spread(dirty, !open);
  read_ = differs_;
  std::fill_n(work, plan_->ops.size(), 0.0);
  if (open) return;
  std::map<const Map*, int64_t> counts;
  for (size_t i = 0; i < plan_->ops.size(); i++) {
    const Op& op = plan_->ops[i];
    const auto [count, first] = counts.try_emplace(differs_[op.out].get());
    if (first) count->second = differs_[op.out]->count();
    work[i] = op.work * double(count->second);
  }
}

void State::advance(Pool* pool, int64_t first, int64_t last, bool whole, const float* const* inputs,
                    float* const* outputs) {
  const auto ops = int64_t(plan_->ops.size());
  if (first != done_ || last < first || last > ops)
    throw Error("of " + std::to_string(ops) + " ops, " + std::to_string(first) + " to " + std::to_string(last) +
                " are to be computed behind " + std::to_string(done_));
  if (whole) {
    for (int id : plan_->inputs)
      if (first == 0) read_[id] = full(size(id));
    for (int64_t i = first; i < last; i++) differs_[plan_->ops[i].out] = full(size(plan_->ops[i].out));
  }
  Pool::Run run(pool);
  if (first == 0) read_inputs(run, inputs);
  compute_ops(run, size_t(first), size_t(last), outputs);
  done_ = last;
}

Size State::shape(int64_t tensor) const {
  const bool known = tensor >= 0 && tensor < int64_t(buffers_.size());
  if (!known || !buffers_[tensor].size.count() || buffers_[tensor].format.bytes())
    throw Error("tensor " + std::to_string(tensor) + " is no map of floats");
  return buffers_[tensor].size;
}

void State::write(Pool* pool, int64_t tensor, float* to) {
  const Size all = shape(tensor);
  Pool::Run run(pool);
  write_output(run, int(tensor), *cells_of(full(all), buffers_[tensor]), to, false);
}

void State::limit(const float* limits) {
  limits_.assign(limits, limits + buffers_.size());
  if (std::all_of(limits_.begin(), limits_.end(), [](float v) { return !(v > 0); })) limits_.clear();
}

void State::uses(float* found) const {
  for (size_t id = 0; id < buffers_.size(); id++) {
    double work = 0;
    for (size_t i : readers_[id]) work += plan_->ops[i].work * double(size(plan_->ops[i].out).count());
    found[id] = float(work / double(std::max<int64_t>(1, buffers_[id].size.count() * buffers_[id].channels)));
  }
}

void State::rms(Pool* pool, float* found) const {
  Pool::Run run(pool);
  for (size_t id = 0; id < buffers_.size(); id++) {
    const Buffer& buffer = buffers_[id];
    std::vector<double> rows(buffer.rows);
    run.each(buffer.rows, [&](int64_t y) {
      constexpr int kLanes = 16;  // sums that do not wait for each other
      float sums[kLanes] = {};
      const int64_t n = buffer.pitch * buffer.channels;
      Floats room;
      const float* row = numbers(plan_->kernels, buffer, y * n, n, room);
      int64_t i = 0;
      for (; i + kLanes <= n; i += kLanes)
        for (int j = 0; j < kLanes; j++) sums[j] += row[i + j] * row[i + j];
      for (; i < n; i++) sums[0] += row[i] * row[i];
      for (float sum : sums) rows[y] += sum;
    });
    double sum = 0;
    for (double row : rows) sum += row;
    found[id] = float(std::sqrt(sum / double(std::max<int64_t>(1, buffer.size.count() * buffer.channels))));
  }
}

int64_t State::memory() const {
  int64_t bytes = 0;
  for (const Buffer& buffer : buffers_) bytes += buffer.nbytes();
  return bytes;
}

void State::save(uint8_t* to) const {
  for (const Buffer& buffer : buffers_) to = std::copy_n(buffer.bytes(), buffer.nbytes(), to);
}

void State::load(Pool* pool, const uint8_t* from, float* const* outputs) {
  Pool::Run run(pool);
  streams_ = true;
  for (Buffer& buffer : buffers_) {
    std::copy_n(from, buffer.nbytes(), buffer.bytes());
    from += buffer.nbytes();
  }
  for (size_t i = 0; i < plan_->outputs.size(); i++) {
    const int id = plan_->outputs[i];
    write_output(run, id, *cells_of(full(size(id)), buffers_[id]), outputs[i], false);
  }
}

double State::prepare(const uint8_t* const* dirty) {
  const Plan& plan = *plan_;
  const std::vector<Positions> differs = spread(dirty);
  std::vector<Positions> computes(plan.ops.size());
  for (size_t i = plan.ops.size(); i-- > 0;) {
    const int out = plan.ops[i].out;
    if (surely_read(out, differs[out], computes)) {
      computes[i] = differs[out];
      continue;
    }
    const Positions read = read_of(out, computes);
    computes[i] = read ? common(differs[out], read) : empty(size(out));
  }
  read_.assign(buffers_.size(), nullptr);
  for (int id : plan.inputs) read_[id] = read_of(id, computes);
  double work = 0;
  cells_by_map_.clear();
  for (size_t i = 0; i < plan.ops.size(); i++) {
    cells_[i] = cells_of(computes[i], buffers_[plan.ops[i].out]);
    work += plan.ops[i].work * double(cells_[i]->size());
  }
  return work;
}

// The positions of a tensor that anything reads; null for none.
Positions State::read_of(int tensor, const std::vector<Positions>& computes) {
  Positions read;
  for (size_t i : readers_[tensor]) {
    const Op& op = plan_->ops[i];
    for (const Step& step : op.steps)
      if (step.tensor == tensor) read = united(read, computes[i]);
    for (const Part& part : op.parts) {
      if (part.tensor != tensor) continue;
      const bool here = op.kind == OpKind::kCopy;
      read = united(read, here ? computes[i] : needed(*computes[i], op, taps_y_[i], taps_x_[i], size(tensor)));
    }
  }
  return read;
}

// Whether it is known without looking that all these dirty positions are read.
bool State::surely_read(int tensor, const Positions& dirty, const std::vector<Positions>& computes) const {
  if (plan_->tensors[tensor].output) return true;
  for (size_t i : readers_[tensor]) {
    if (computes[i] != dirty) continue;
    const Op& op = plan_->ops[i];
    const auto centred = [](const Axis& axis) {
      return axis.stride == 1 && axis.low >= 0 && axis.low % axis.dilation == 0 && axis.low / axis.dilation < axis.kernel;
    };
    const bool window = op.convolves() || op.kind == OpKind::kPool;
    if (op.kind == OpKind::kCopy || (window && centred(op.y) && centred(op.x))) return true;
    for (const Step& step : op.steps)
      if (step.tensor == tensor) return true;
  }
  return false;
}

Positions State::dirty_after(const Op& op, const std::vector<Positions>& dirty) {
  const size_t i = &op - plan_->ops.data();
  Positions found;
  size_t first = op.steps.size();
  // Where a mask is zero, the product is what it is in the reference, whatever is masked: zero.
  while (first > 0 && !masks(op.steps[first - 1])) first--;
  if (streams_) first = 0;  // a stream's masks are tensors like any other
  if (first > 0) {
    found = dirty[op.steps[first - 1].tensor];
  } else {
    for (const Part& part : op.parts) {
      Positions from = dirty[part.tensor];
      if (op.kind != OpKind::kCopy)
        from = from == full(size(part.tensor)) ? full(size(op.out))
                                               : reached(*from, op, taps_y_[i], taps_x_[i], size(op.out));
      found = united(found, from);
    }
  }
  for (; first < op.steps.size(); first++)
    if (op.steps[first].tensor >= 0) found = united(found, dirty[op.steps[first].tensor]);
  return found;
}

bool State::masks(const Step& step) const {
  return step.kind == StepKind::kMultiplyMap && plan_->tensors[step.tensor].mask;
}

Cells State::cells_of(const Positions& positions, const Buffer& buffer) {
  auto& [kept, cells] = cells_by_map_[positions.get()];
  if (cells) return cells;
  auto found = std::make_shared<std::vector<Cell>>(positions->count());
  Cell* to = found->data();
  for (int64_t y = 0; y < buffer.size.height; y++) {
    const auto index = static_cast<int32_t>(buffer.index(y, 0));
    positions->each_run(y, [&](int64_t begin, int64_t end) {
      for (int64_t x = begin; x < end; x++) *to++ = {index + int32_t(x), uint16_t(y), uint16_t(x)};
    });
  }
  kept = positions;
  return cells = found;
}

void State::run(Pool* pool, const float* const* inputs, float* const* outputs) {
  Pool::Run run(pool);
  read_inputs(run, inputs);
  compute_ops(run, 0, plan_->ops.size(), outputs);
}

void State::read_inputs(Pool::Run& run, const float* const* inputs) {
  for (size_t i = 0; i < plan_->inputs.size(); i++) read_input(run, plan_->inputs[i], inputs[i]);
}

// And writes those of the outputs that are among them.
void State::compute_ops(Pool::Run& run, size_t first, size_t last, float* const* outputs) {
  work_ = 0;
  for (size_t i = first; i < last; i++) {
    const Op& op = plan_->ops[i];
    const Buffer& out = buffers_[op.out];
    if (streams_) {
      if (!differs_[op.out]) differs_[op.out] = dirty_after(op, differs_);  // was left open
      cells_[i] = cells_of(differs_[op.out], out);
    }
    Cells& dirty = out.memory->dirty;
    if (dirty && dirty != cells_[i]) set_back(run, out, *dirty);  // another tensor's
    if (!streams_) dirty = cells_[i];
    work_ += op.work * double(cells_[i]->size());
    if (streams_ && held_back(op))
      settle(run, i);
    else
      compute(op, *plan_, buffers_, taps_y_[i], taps_x_[i], *cells_[i], run);
  }
  if (!outputs) return;
  std::vector<const std::vector<Cell>*> made(buffers_.size());
  for (size_t i = first; i < last; i++) made[plan_->ops[i].out] = cells_[i].get();
  for (size_t i = 0; i < plan_->outputs.size(); i++) {
    const int id = plan_->outputs[i];
    if (made[id]) write_output(run, id, *made[id], outputs[i], false);
  }
}

// Whether what an op computes is compared with what it was.
bool State::held_back(const Op& op) const {
  const bool arithmetic = op.kind != OpKind::kCopy && op.kind != OpKind::kResize;
  const auto all = full_.find({size(op.out).height, size(op.out).width});
  const bool whole = all != full_.end() && differs_[op.out] == all->second;
  return arithmetic && !whole && !limits_.empty() && limits_[op.out] > 0 && !readers_[op.out].empty();
}

// Computes an op, and takes over the positions that moved. The others keep the value that was passed on last, so that
// what is held back cannot add up.
void State::settle(Pool::Run& run, size_t i) {
  const Op& op = plan_->ops[i];
  Buffer& out = buffers_[op.out];
  const std::vector<Cell>& cells = *cells_[i];
  const auto count = int64_t(cells.size());
  if (int64_t(rows_.size()) < count * out.channels) rows_.resize(size_t(count * out.channels));
  const auto moved = std::make_shared<Map>(out.size);
  const auto take_over = [&](int64_t first, int64_t last) {
    Floats room;
    uint64_t* word = nullptr;  // of the map, and its bits so far: other threads may set others of them
    uint64_t bits = 0;
    for (int64_t c = first; c < last; c++) {
      const float* row = rows_.data() + c * out.channels;
      const int64_t at = cells[c].index * out.channels;
      const float* kept = numbers(plan_->kernels, out, at, out.channels, room);
      if (!plan_->kernels.moved(row, kept, limits_[op.out], out.channels)) continue;
      keep(plan_->kernels, row, out.channels, out, at);
      uint64_t* its = moved->row(cells[c].y) + cells[c].x / 64;
      if (word && word != its) __atomic_fetch_or(word, bits, __ATOMIC_RELAXED), bits = 0;
      word = its, bits |= UINT64_C(1) << cells[c].x % 64;
    }
    if (word) __atomic_fetch_or(word, bits, __ATOMIC_RELAXED);
  };
  compute(op, *plan_, buffers_, taps_y_[i], taps_x_[i], cells, run, rows_.data(), take_over);
  differs_[op.out] = moved;
}

// From [channels, height, width], where anything reads it; everything for null, as zeros.
void State::read_input(Pool::Run& run, int tensor, const float* from) {
  Buffer& buffer = buffers_[tensor];
  const Positions read = read_[tensor];
  if (!read) return;
  const int64_t area = buffer.size.count(), channels = buffer.channels;
  run.each(buffer.size.height, [&](int64_t y) {
    read->each_run(y, [&](int64_t x, int64_t end) {
      float* to = buffer.data() + buffer.index(y, x) * channels;
      if (!from)
        std::fill_n(to, (end - x) * channels, 0.f);
      else
        transpose(to, channels, from + y * buffer.size.width + x, area, end - x, channels);
    });
  });
}

// To [channels, height, width]; also from the reference, for what is restored.
void State::write_output(Pool::Run& run, int tensor, const std::vector<Cell>& cells, float* to, bool reference) const {
  const Buffer& buffer = buffers_[tensor];
  const int64_t area = buffer.size.count(), channels = buffer.channels;
  const bool zero = reference && buffer.reference.empty();
  const float* data = reference ? reinterpret_cast<const float*>(buffer.reference.data()) : buffer.data();
  each_run(run, cells, [&](const Cell& first, int64_t n) {
    float* row = to + first.y * buffer.size.width + first.x;
    if (!zero) return transpose(row, area, data + first.index * channels, channels, channels, n);
    for (int64_t c = 0; c < channels; c++) std::fill_n(row + c * area, n, 0.f);
  });
}

void State::set_back(Pool::Run& run, const Buffer& buffer, const std::vector<Cell>& cells) const {
  each_run(run, cells, [&](const Cell& first, int64_t n) {
    uint8_t* to = buffer.bytes() + first.index * buffer.stride();
    const int64_t count = n * buffer.stride();
    if (buffer.reference.empty())
      std::fill_n(to, count, buffer.zero());
    else
      std::copy_n(buffer.reference.data() + first.index * buffer.stride(), count, to);
  });
}

void State::restore(Pool* pool, float* const* outputs) {
  Pool::Run run(pool);
  for (size_t i = 0; i < plan_->ops.size(); i++) {
    const int out = plan_->ops[i].out;
    Cells& dirty = buffers_[out].memory->dirty;
    if (dirty) set_back(run, buffers_[out], *dirty);
    dirty = nullptr;
    for (size_t o = 0; outputs && o < plan_->outputs.size(); o++)
      if (plan_->outputs[o] == out) write_output(run, out, *cells_[i], outputs[o], true);
    cells_[i] = std::make_shared<std::vector<Cell>>();
  }
}

void State::refer(Pool* pool, float* const* outputs) {
  prepare(nullptr);
  // Everything, whatever reads it: another image may.
  for (size_t i = 0; i < plan_->ops.size(); i++) {
    const Buffer& buffer = buffers_[plan_->ops[i].out];
    cells_[i] = cells_of(full(buffer.size), buffer);
  }
  const std::vector<const float*> zeros(plan_->inputs.size(), nullptr);
  for (int id : plan_->inputs) read_[id] = full(buffers_[id].size);
  run(pool, zeros.data(), outputs);
  for (const Op& op : plan_->ops) {
    Buffer& buffer = buffers_[op.out];
    if (!is_zero(buffer)) buffer.reference = buffer.memory->bytes;
    buffer.memory->dirty = nullptr;
  }
  share();
  cells_.assign(plan_->ops.size(), std::make_shared<std::vector<Cell>>());
  cells_by_map_.clear();
}

}  // namespace foveate
