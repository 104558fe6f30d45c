#include "maps.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace foveate {
namespace {

// The outputs o with 0 ≤ o·stride + shift < inputs: [first, last).
struct Range {
  int64_t first, last;
  Range(int64_t shift, int64_t stride, int64_t inputs, int64_t outputs) {
    first = shift >= 0 ? 0 : (-shift + stride - 1) / stride;
    last = inputs - shift > 0 ? std::min(outputs, (inputs - shift - 1) / stride + 1) : 0;
  }
};

void merge(uint8_t* to, const uint8_t* from, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] |= from[i];
}

// to[o] |= from[o·stride + shift] wherever that exists
void gather(uint8_t* to, const uint8_t* from, int64_t shift, int64_t stride, int64_t inputs, int64_t outputs) {
  const Range range(shift, stride, inputs, outputs);
  if (stride == 1) {
    if (range.first < range.last) merge(to + range.first, from + range.first + shift, range.last - range.first);
    return;
  }
  for (int64_t o = range.first; o < range.last; o++) to[o] |= from[o * stride + shift];
}

// to[o·stride + shift] |= from[o]
void scatter(uint8_t* to, const uint8_t* from, int64_t shift, int64_t stride, int64_t inputs, int64_t outputs) {
  const Range range(shift, stride, inputs, outputs);
  if (stride == 1) {
    if (range.first < range.last) merge(to + range.first + shift, from + range.first, range.last - range.first);
    return;
  }
  for (int64_t o = range.first; o < range.last; o++) to[o * stride + shift] |= from[o];
}

int64_t shift_of(const Axis& axis, int64_t tap) { return tap * axis.dilation - axis.low; }

float source(Coordinates coordinates, float scale, int64_t output, int64_t outputs) {
  if (coordinates == Coordinates::kAsymmetric) return static_cast<float>(output) / scale;
  if (coordinates == Coordinates::kPytorchHalfPixel && outputs == 1) return 0;
  return (static_cast<float>(output) + 0.5f) / scale - 0.5f;
}

float rounded(float x, Rounding rounding) {
  switch (rounding) {
    case Rounding::kPreferFloor: return std::ceil(x - 0.5f);
    case Rounding::kPreferCeil: return std::floor(x + 0.5f);
    case Rounding::kFloor: return std::floor(x);
    case Rounding::kCeil: break;
  }
  return std::ceil(x);
}

}  // namespace

Taps resize_taps(const Op& op, float scale, int64_t inputs, int64_t outputs) {
  Taps taps;
  const float end = static_cast<float>(inputs - 1);
  for (int64_t o = 0; o < outputs; o++) {
    const float x = source(op.coordinates, scale, o, outputs);
    if (op.resize == ResizeKind::kNearest) {
      const auto i = static_cast<int32_t>(std::clamp(rounded(x, op.rounding), 0.f, end));
      taps.first.push_back(i), taps.last.push_back(i), taps.share.push_back(0);
      continue;
    }
    const float inside = std::clamp(x, 0.f, end);
    const auto low = static_cast<int32_t>(inside);
    taps.first.push_back(low);
    taps.last.push_back(std::min<int32_t>(low + 1, static_cast<int32_t>(inputs - 1)));
    taps.share.push_back(inside - static_cast<float>(low));
  }
  return taps;
}

namespace {

// Positions o of `size` that read any of `from`, where o reads o·stride + shift of each tap.
void pull(Map& to, const Map& from, const Axis& y, const Axis& x) {
  std::vector<uint8_t> row(from.size.width);
  for (int64_t o = 0; o < to.size.height; o++) {
    std::fill(row.begin(), row.end(), 0);
    for (int64_t tap = 0; tap < y.kernel; tap++) {
      const int64_t i = o * y.stride + shift_of(y, tap);
      if (i >= 0 && i < from.size.height) merge(row.data(), from.row(i), from.size.width);
    }
    if (!std::memchr(row.data(), 1, row.size())) continue;
    for (int64_t tap = 0; tap < x.kernel; tap++)
      gather(to.row(o), row.data(), shift_of(x, tap), x.stride, from.size.width, to.size.width);
  }
}

// Positions that any position o of `from` reads, the other way round.
void push(Map& to, const Map& from, const Axis& y, const Axis& x) {
  std::vector<uint8_t> row(to.size.width);
  for (int64_t o = 0; o < from.size.height; o++) {
    if (!std::memchr(from.row(o), 1, from.size.width)) continue;
    std::fill(row.begin(), row.end(), 0);
    for (int64_t tap = 0; tap < x.kernel; tap++)
      scatter(row.data(), from.row(o), shift_of(x, tap), x.stride, to.size.width, from.size.width);
    for (int64_t tap = 0; tap < y.kernel; tap++) {
      const int64_t i = o * y.stride + shift_of(y, tap);
      if (i >= 0 && i < to.size.height) merge(to.row(i), row.data(), to.size.width);
    }
  }
}

}  // namespace

Positions reached(const Map& from, const Op& op, const Taps& y, const Taps& x, Size size) {
  auto found = std::make_shared<Map>(size);
  if (op.kind != OpKind::kResize) {
    (op.kind == OpKind::kConvTranspose ? push : pull)(*found, from, op.y, op.x);
    return found;
  }
  std::vector<uint8_t> row(from.size.width);
  for (int64_t o = 0; o < size.height; o++) {
    std::fill(row.begin(), row.end(), 0);
    for (int64_t i = y.first[o]; i <= y.last[o]; i++) merge(row.data(), from.row(i), from.size.width);
    for (int64_t p = 0; p < size.width; p++) found->row(o)[p] = row[x.first[p]] | row[x.last[p]];
  }
  return found;
}

Positions needed(const Map& by, const Op& op, const Taps& y, const Taps& x, Size size) {
  auto found = std::make_shared<Map>(size);
  if (op.kind != OpKind::kResize) {
    (op.kind == OpKind::kConvTranspose ? pull : push)(*found, by, op.y, op.x);
    return found;
  }
  std::vector<uint8_t> row(size.width);
  for (int64_t o = 0; o < by.size.height; o++) {
    std::fill(row.begin(), row.end(), 0);
    for (int64_t p = 0; p < by.size.width; p++)
      if (by.row(o)[p]) row[x.first[p]] = row[x.last[p]] = 1;
    for (int64_t i = y.first[o]; i <= y.last[o]; i++) merge(found->row(i), row.data(), size.width);
  }
  return found;
}

Positions united(const Positions& a, const Positions& b) {
  if (!a || a == b) return b;
  if (!b) return a;
  auto both = std::make_shared<Map>(*a);
  merge(both->cells.data(), b->cells.data(), a->size.count());
  // The same as one of the two where it holds the other: then what was worked out for that one holds again.
  if (both->cells == a->cells) return a;
  return both->cells == b->cells ? b : both;
}

Positions common(const Positions& a, const Positions& b) {
  if (a == b) return a;
  auto both = std::make_shared<Map>(*a);
  for (int64_t i = 0; i < a->size.count(); i++) both->cells[i] &= b->cells[i];
  if (both->cells == a->cells) return a;
  return both->cells == b->cells ? b : both;
}

}  // namespace foveate
