// Sets of positions: which of a tensor's positions are dirty, and which of them anything reads.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "plan.h"

namespace foveate {

struct Size {
  int64_t height = 0, width = 0;
  int64_t count() const { return height * width; }
  bool operator==(const Size& other) const { return height == other.height && width == other.width; }
};

// 0 or 1 for each position, row by row.
struct Map {
  Size size;
  std::vector<uint8_t> cells;
  explicit Map(Size size, uint8_t fill = 0) : size(size), cells(size.count(), fill) {}
  uint8_t* row(int64_t y) { return cells.data() + y * size.width; }
  const uint8_t* row(int64_t y) const { return cells.data() + y * size.width; }
};

// Shared, because most tensors of one size have the same.
using Positions = std::shared_ptr<const Map>;

// What one output reads along an axis: inputs first … last of each, and how much of the last for linear resizing.
struct Taps {
  std::vector<int32_t> first, last;
  std::vector<float> share;
};

// The taps of resizing `inputs` by `scale`.
Taps resize_taps(const Op& op, float scale, int64_t inputs, int64_t outputs);

// Outputs that read any of the positions …
Positions reached(const Map& from, const Op& op, const Taps& y, const Taps& x, Size size);
// … and inputs that any of the positions read.
Positions needed(const Map& by, const Op& op, const Taps& y, const Taps& x, Size size);

Positions united(const Positions& a, const Positions& b);
Positions common(const Positions& a, const Positions& b);

}  // namespace foveate
