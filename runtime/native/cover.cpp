// The rectangle planner of rectangles.py, natively: the same tiles, partition, merging and tightening.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "foveate.h"

namespace {

constexpr int kFinest = 16;  // tiles along what is active, as in rectangles.py
constexpr int kBlocks = 2 * kFinest - 1;  // dyadic blocks along an axis: kFinest of one tile, half as many of two …

struct Box {
  int y0, x0, y1, x1;
};

Box unite(const Box& a, const Box& b) {
  return {std::min(a.y0, b.y0), std::min(a.x0, b.x0), std::max(a.y1, b.y1), std::max(a.x1, b.x1)};
}

struct Cost {
  double fixed, rim_y, rim_x;
  double operator()(const Box& b) const { return fixed + (b.y1 - b.y0 + rim_y) * (b.x1 - b.x0 + rim_x); }
};

// The cheapest cover of tiles by bounding boxes of dyadic blocks; in the floats and the order of rectangles.py, so that ties
// fall as they do there.
class Partition {
 public:
  Partition(const std::vector<uint8_t>& tiles, int height, int width, const Cost& cost)
      : fixed_(float(cost.fixed)), rim_y_(float(cost.rim_y)), rim_x_(float(cost.rim_x)) {
    for (int count = kFinest, start = 0; count; start += count, count /= 2) starts_.push_back(start);
    for (int y = 0; y < kFinest; y++)
      for (int x = 0; x < kFinest; x++) {
        const bool held = y < height && x < width && tiles[y * width + x];
        at(y, x) = held ? whole({y, x, y + 1, x + 1}) : Block{};
      }
    const int levels = static_cast<int>(starts_.size());
    for (int i = 0; i < levels; i++)
      for (int j = 0; j < levels; j++)
        if (i || j) level(i, j);
    collect(levels - 1, 0, levels - 1, 0);
  }
  std::vector<Box> boxes;

 private:
  enum Cut : uint8_t { kEmpty, kWhole, kRows, kColumns };
  struct Block {
    Box box{};
    float best = 0;
    double halves = 0;  // what the cut costs, before it is rounded
    Cut cut = kEmpty;
  };

  Block& at(int y, int x) { return blocks_[y * kBlocks + x]; }
  Block whole(const Box& box) const {
    const float height = rim_y_ + float(box.y1) - float(box.y0), width = rim_x_ + float(box.x1) - float(box.x0);
    return {box, height * width + fixed_, 0, kWhole};
  }

  void level(int i, int j) {
    for (int row = 0; row < kFinest >> i; row++)
      for (int column = 0; column < kFinest >> j; column++) {
        Block& block = at(starts_[i] + row, starts_[j] + column);
        block = {};
        if (i) halve(block, at(starts_[i - 1] + 2 * row, starts_[j] + column),
                     at(starts_[i - 1] + 2 * row + 1, starts_[j] + column), kRows);
        if (j) halve(block, at(starts_[i] + row, starts_[j - 1] + 2 * column),
                     at(starts_[i] + row, starts_[j - 1] + 2 * column + 1), kColumns);
      }
  }

  void halve(Block& block, const Block& a, const Block& b, Cut cut) const {
    if (a.cut == kEmpty && b.cut == kEmpty) return;
    if (block.cut == kEmpty) block = whole(a.cut == kEmpty ? b.box : b.cut == kEmpty ? a.box : unite(a.box, b.box));
    const double halves = double(a.best) + double(b.best);
    if (block.cut == kWhole ? a.best + b.best < block.best : halves < block.halves)
      block.best = a.best + b.best, block.halves = halves, block.cut = cut;
  }

  void collect(int i, int row, int j, int column) {
    const Block& block = at(starts_[i] + row, starts_[j] + column);
    if (block.cut == kWhole) boxes.push_back(block.box);
    if (block.cut == kRows) collect(i - 1, 2 * row + 1, j, column), collect(i - 1, 2 * row, j, column);
    if (block.cut == kColumns) collect(i, row, j - 1, 2 * column + 1), collect(i, row, j - 1, 2 * column);
  }

  float fixed_, rim_y_, rim_x_;
  std::vector<int> starts_;
  std::vector<Block> blocks_ = std::vector<Block>(kBlocks * kBlocks);
};

// Replaces pairs of boxes by their union while that lowers the cost: each time all pairs at once that gain more together
// than with any other box.
void merge(std::vector<Box>& boxes, const Cost& cost) {
  for (;;) {
    const int n = static_cast<int>(boxes.size());
    std::vector<int> partner(n, -1);
    for (int a = 0; a < n; a++) {
      double most = 0;
      for (int b = 0; b < n; b++) {
        const double gain = a == b ? 0 : cost(boxes[a]) + cost(boxes[b]) - cost(unite(boxes[a], boxes[b]));
        if (gain > most) most = gain, partner[a] = b;
      }
    }
    std::vector<Box> kept, merged;
    for (int a = 0; a < n; a++) {
      const int b = partner[a];
      if (b < 0 || partner[b] != a)
        kept.push_back(boxes[a]);
      else if (a < b)
        merged.push_back(unite(boxes[a], boxes[b]));
    }
    if (merged.empty()) return;
    boxes = std::move(kept);
    boxes.insert(boxes.end(), merged.begin(), merged.end());
  }
}

// The tightest box of the active cells inside one, which holds some.
Box tighten(const uint8_t* active, int64_t pitch, const Box& box) {
  Box inner{box.y1, box.x1, box.y0, box.x0};
  for (int y = box.y0; y < box.y1; y++) {
    const uint8_t* row = active + y * pitch;
    int first = box.x0, last = box.x1;
    while (first < box.x1 && !row[first]) first++;
    if (first == box.x1) continue;
    while (!row[last - 1]) last--;
    inner = {std::min(inner.y0, y), std::min(inner.x0, first), y + 1, std::max(inner.x1, last)};
  }
  return inner;
}

std::vector<Box> cover(const uint8_t* active, int64_t pitch, const Box& bounds, double fixed, const int32_t halo[4]) {
  const int height = bounds.y1 - bounds.y0, width = bounds.x1 - bounds.x0;
  const Cost exact{fixed, double(halo[0] + halo[2]), double(halo[1] + halo[3])};
  int64_t held = 0, rows_held = 0, columns_held = 0;
  std::vector<uint8_t> any(width);
  for (int y = bounds.y0; y < bounds.y1; y++) {
    const int64_t before = held;
    for (int x = 0; x < width; x++) {
      const uint8_t found = active[y * pitch + bounds.x0 + x] != 0;
      held += found, any[x] |= found;
    }
    rows_held += held > before;
  }
  for (uint8_t found : any) columns_held += found;
  // Boxes that cover it have these cells and, in their rims, these rows and columns at least.
  const double least = double(held) + exact.rim_x * double(rows_held) + exact.rim_y * double(columns_held) +
                       2 * (fixed + exact.rim_y * exact.rim_x);
  if (exact(bounds) <= least) return {bounds};

  const int step = (std::max(height, width) + kFinest - 1) / kFinest;
  const int rows = (height + step - 1) / step, columns = (width + step - 1) / step;
  std::vector<uint8_t> tiles(rows * columns);
  for (int y = 0; y < height; y++)
    for (int x = 0; x < width; x++)
      tiles[y / step * columns + x / step] |= active[(bounds.y0 + y) * pitch + bounds.x0 + x] != 0;

  const Cost cost{fixed / (step * step), double(halo[0] + halo[2]) / step, double(halo[1] + halo[3]) / step};
  std::vector<Box> boxes = Partition(tiles, rows, columns, cost).boxes;
  merge(boxes, cost);
  for (Box& box : boxes)
    box = tighten(active, pitch,
                  {bounds.y0 + box.y0 * step, bounds.x0 + box.x0 * step, std::min(bounds.y0 + box.y1 * step, bounds.y1),
                   std::min(bounds.x0 + box.x1 * step, bounds.x1)});
  double total = 0;
  for (const Box& box : boxes) total += exact(box);
  if (total > exact(bounds)) return {bounds};  // tiles were too coarse
  return boxes;
}

}  // namespace

int64_t fv_cover(const uint8_t* active, int64_t height, int64_t width, double fixed, const int32_t halo[4],
                 int64_t* rects, int64_t limit) try {
  const Box map{0, 0, static_cast<int>(height), static_cast<int>(width)};
  const Box bounds = tighten(active, width, map);
  if (bounds.y0 >= bounds.y1) return 0;
  const std::vector<Box> boxes = cover(active, width, bounds, fixed, halo);
  const int64_t count = std::min(limit, static_cast<int64_t>(boxes.size()));
  for (int64_t i = 0; i < count; i++) {
    const int64_t rect[4] = {boxes[i].y0, boxes[i].x0, boxes[i].y1, boxes[i].x1};
    std::memcpy(rects + 4 * i, rect, sizeof rect);
  }
  return static_cast<int64_t>(boxes.size());
} catch (...) {
  return -1;
}
