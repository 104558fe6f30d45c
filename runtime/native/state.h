// A state: the buffers of a plan at one resolution, and which positions of them are computed next.
#pragma once
#include <map>
#include <memory>
#include <vector>

#include "maps.h"
#include "plan.h"
#include "pool.h"

namespace foveate {

struct Memory;

// One tensor, [rows][pitch][channels], with zeros around the image that convolutions read as padding. Tensors of one
// size have the same border, so that one index finds a position in all of them.
struct Buffer {
  Size size;
  int64_t top = 0, left = 0, rows = 0, pitch = 0, channels = 0;
  Format format;
  std::shared_ptr<Memory> memory;
  Bytes reference;  // empty where it is zero everywhere
  int64_t index(int64_t y, int64_t x) const { return (y + top) * pitch + x + left; }
  int64_t stride() const { return channels * format.size(); }  // bytes of a position
  int64_t nbytes() const { return rows * pitch * stride(); }
  uint8_t zero() const { return uint8_t(format.zero); }  // what all bytes of the number zero are
  float* data() const { return reinterpret_cast<float*>(bytes()); }
  uint8_t* bytes() const;
};

struct Cell {
  int32_t index;  // in buffers of the output's size
  uint16_t y, x;
};

using Cells = std::shared_ptr<const std::vector<Cell>>;

// What tensors of one shape share that are never alive at once and are zero in the reference.
struct Memory {
  Bytes bytes;
  Cells dirty;  // written and not set back since
};

inline uint8_t* Buffer::bytes() const { return memory->bytes.data(); }

// Used by one caller at a time.
class State {
 public:
  // `sizes`: of each input. Throws Error, also where the buffers would take more than `limit` bytes.
  State(std::shared_ptr<const Plan> plan, const std::vector<Size>& sizes, int64_t limit);

  // The bytes that the buffers would take.
  static int64_t need(std::shared_ptr<const Plan> plan, const std::vector<Size>& sizes);

  Size size(int tensor) const { return buffers_[tensor].size; }
  int64_t bytes() const;

  // Computes every tensor for inputs that are zero, and keeps that as the reference. `outputs` are written whole.
  void refer(Pool* pool, float* const* outputs);

  // Which positions differ from the reference for these masks (support of each mask input, row by row; null: dirty
  // everywhere), and which of those anything reads. Returns the multiply-adds that they take.
  double prepare(const uint8_t* const* dirty);

  // The same for a stream, whose reference is what the state holds: the inputs differ where they are dirty (null:
  // everywhere), and what they reach is computed whether this frame reads it or not. `work`: of each op, all 0 where
  // limits leave open how much that is. Not for a state that has a reference of its own.
  void follow(const uint8_t* const* dirty, double* work);

  // Computes what `follow` found of the ops from `first` up to `last`, which begin where the last call ended; with `whole`
  // at all positions. A frame may end before the last op: what lies behind is then stale, until it is computed whole.
  // Throws Error for other ops.
  void advance(Pool* pool, int64_t first, int64_t last, bool whole, const float* const* inputs, float* const* outputs);

  // Writes a tensor of floats whole, as [channels, height, width]. Throws Error for one that is none.
  void write(Pool* pool, int64_t tensor, float* to);
  Size shape(int64_t tensor) const;  // of such a tensor

  // Of a stream: a position of a tensor that did not move by more than its limit in any channel stays what it was, and is
  // not passed on. By tensor; 0 passes everything on. Outputs that no op reads are not held back.
  void limit(const float* limits);

  // Multiply-adds that read each number of a tensor, on average.
  void uses(float* found) const;

  // The root mean square of each tensor.
  void rms(Pool* pool, float* found) const;

  // Multiply-adds of the last run, or of the ops that were computed last.
  double work() const { return work_; }

  // All that a stream's state holds, as `memory()` bytes.
  int64_t memory() const;
  void save(uint8_t* to) const;
  void load(Pool* pool, const uint8_t* from, float* const* outputs);  // which are written whole

  // Computes what `prepare` found. `inputs`: one image each, [channels, height, width]. `outputs`: the same form;
  // computed positions are written.
  void run(Pool* pool, const float* const* inputs, float* const* outputs);

  // Sets all that was computed back to the reference, in the outputs, too.
  void restore(Pool* pool, float* const* outputs);

  const Plan& plan() const { return *plan_; }

 private:
  explicit State(std::shared_ptr<const Plan> plan) : plan_(std::move(plan)) {}
  void measure(const std::vector<Size>& sizes);
  int64_t lay_out();
  void allocate();
  void share();
  Positions full(Size size);
  Positions empty(Size size);
  std::vector<Positions> spread(const uint8_t* const* dirty, bool behind = true);
  bool held_back(const Op& op) const;
  void read_inputs(Pool::Run& run, const float* const* inputs);
  void compute_ops(Pool::Run& run, size_t first, size_t last, float* const* outputs);
  void settle(Pool::Run& run, size_t op);
  Positions dirty_after(const Op& op, const std::vector<Positions>& dirty);
  bool masks(const Step& step) const;
  Positions read_of(int tensor, const std::vector<Positions>& computes);
  bool surely_read(int tensor, const Positions& dirty, const std::vector<Positions>& computes) const;
  Cells cells_of(const Positions& positions, const Buffer& buffer);
  void read_input(Pool::Run& run, int tensor, const float* from);
  void set_back(Pool::Run& run, const Buffer& buffer, const std::vector<Cell>& cells) const;
  void write_output(Pool::Run& run, int tensor, const std::vector<Cell>& cells, float* to, bool reference) const;

  std::shared_ptr<const Plan> plan_;
  std::vector<Buffer> buffers_;            // by tensor
  std::vector<std::vector<size_t>> readers_;  // by tensor: the ops that read it
  std::vector<Taps> taps_y_, taps_x_;      // by op, of resizes
  std::vector<Cells> cells_;               // by op: what to compute
  bool streams_ = false;                   // what was computed stays
  std::vector<Positions> differs_;         // by tensor, of streams
  std::vector<float> limits_;              // by tensor, of streams; empty for none
  int64_t done_ = -1;                      // ops of this frame, of streams; −1 before the first
  Floats rows_;                            // what an op computed, where a limit is to be kept
  double work_ = 0;
  std::vector<Positions> read_;            // by tensor: positions that anything reads, of inputs
  std::map<std::pair<int64_t, int64_t>, Positions> full_, empty_;
  std::map<const Map*, std::pair<Positions, Cells>> cells_by_map_;
};

}  // namespace foveate
