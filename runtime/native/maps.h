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

class Map;
// Shared, because most tensors of one size have the same.
using Positions = std::shared_ptr<const Map>;

// A set of positions: one bit each, row by row. A row begins with a word of its own, and ends in bits of 0.
class Map {
 public:
  explicit Map(Size size, bool full = false);
  Map(Size size, const uint8_t* bytes);  // those whose byte is not 0

  Size size() const { return size_; }
  int64_t words() const { return words_; }  // of a row
  uint64_t* row(int64_t y) { return bits_.data() + y * words_; }
  const uint64_t* row(int64_t y) const { return bits_.data() + y * words_; }
  int64_t count() const;

  // Calls f(begin, end) for the runs of consecutive positions of a row.
  template <class F>
  void each_run(int64_t y, F f) const;

 private:
  friend Positions united(const Positions& a, const Positions& b);
  friend Positions common(const Positions& a, const Positions& b);
  Size size_;
  int64_t words_;
  std::vector<uint64_t> bits_;
};

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

template <class F>
void Map::each_run(int64_t y, F f) const {
  const uint64_t* bits = row(y);
  int64_t begin = -1;  // of a run that reaches into the word
  for (int64_t word = 0; word < words_; word++) {
    int64_t at = 0;  // bits of the word that are done
    while (at < 64) {
      const uint64_t rest = (begin < 0 ? bits[word] : ~bits[word]) >> at << at;  // where it begins, or ends
      if (!rest) break;
      at = __builtin_ctzll(rest);
      if (begin < 0)
        begin = word * 64 + at;
      else
        f(begin, word * 64 + at), begin = -1;
    }
  }
  if (begin >= 0) f(begin, size_.width);
}

}  // namespace foveate
