#include "maps.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace foveate {
namespace {

constexpr int64_t kWord = 64;

int64_t words_for(int64_t bits) { return (bits + kWord - 1) / kWord; }

void merge(uint64_t* to, const uint64_t* from, int64_t words) {
  for (int64_t i = 0; i < words; i++) to[i] |= from[i];
}

bool any(const uint64_t* bits, int64_t words) {
  uint64_t found = 0;
  for (int64_t i = 0; i < words; i++) found |= bits[i];
  return found;
}

bool has(const uint64_t* bits, int64_t i) { return bits[i / kWord] >> i % kWord & 1; }
void add(uint64_t* bits, int64_t i) { bits[i / kWord] |= UINT64_C(1) << i % kWord; }

// Some bits. Those beyond them in the last word are 0.
struct Bits {
  int64_t count;
  std::vector<uint64_t> words;
  explicit Bits(int64_t count) : count(count), words(words_for(count)) {}
  void clear() { std::fill(words.begin(), words.end(), 0); }
};

// Sets the bits beyond the first `count` to 0.
void cut(uint64_t* bits, int64_t count) {
  if (count % kWord) bits[count / kWord] &= (UINT64_C(1) << count % kWord) - 1;
}

// to[i + by] |= from[i] wherever that exists, of `to_count` bits
void merge_shifted(uint64_t* to, int64_t to_count, const uint64_t* from, int64_t from_words, int64_t by) {
  const int64_t words = by >= 0 ? by / kWord : -((-by + kWord - 1) / kWord), bits = by - words * kWord;
  const int64_t to_words = words_for(to_count);
  const int64_t first = std::max<int64_t>(0, -words), last = std::min(from_words, to_words - words);
  for (int64_t i = first; i < last; i++) to[i + words] |= from[i] << bits;
  if (bits) {
    const int64_t before = std::max<int64_t>(0, -words - 1), behind = std::min(from_words, to_words - words - 1);
    for (int64_t i = before; i < behind; i++) to[i + words + 1] |= from[i] >> (kWord - bits);
  }
  cut(to, to_count);
}

// Every second bit, from the first on: 32 of 64.
uint64_t halved(uint64_t bits) {
  bits &= 0x5555555555555555;
  bits = (bits | bits >> 1) & 0x3333333333333333;
  bits = (bits | bits >> 2) & 0x0f0f0f0f0f0f0f0f;
  bits = (bits | bits >> 4) & 0x00ff00ff00ff00ff;
  bits = (bits | bits >> 8) & 0x0000ffff0000ffff;
  return (bits | bits >> 16) & 0x00000000ffffffff;
}

// The other way round: a 0 behind each of 32 bits.
uint64_t doubled(uint64_t bits) {
  bits &= 0x00000000ffffffff;
  bits = (bits | bits << 16) & 0x0000ffff0000ffff;
  bits = (bits | bits << 8) & 0x00ff00ff00ff00ff;
  bits = (bits | bits << 4) & 0x0f0f0f0f0f0f0f0f;
  bits = (bits | bits << 2) & 0x3333333333333333;
  return (bits | bits << 1) & 0x5555555555555555;
}

// Bit i is set where byte i of eight is not 0.
uint64_t packed(const uint8_t* bytes) {
  static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);
  uint64_t eight;
  std::memcpy(&eight, bytes, 8);
  eight |= eight >> 4, eight |= eight >> 2, eight |= eight >> 1;  // bit 0 of each byte is any of its bits
  return (eight & 0x0101010101010101) * 0x0102040810204080 >> 56;
}

// to[o] |= from[o·stride]
void gather(uint64_t* to, int64_t to_count, const Bits& from, int64_t stride) {
  const auto words = int64_t(from.words.size());
  if (stride == 1) return merge_shifted(to, to_count, from.words.data(), words, 0);
  if (stride == 2) {
    for (int64_t o = 0; o < words_for(to_count); o++) {
      if (2 * o < words) to[o] |= halved(from.words[2 * o]);
      if (2 * o + 1 < words) to[o] |= halved(from.words[2 * o + 1]) << 32;
    }
    return cut(to, to_count);
  }
  for (int64_t o = 0; o < std::min(to_count, (from.count + stride - 1) / stride); o++)
    if (has(from.words.data(), o * stride)) add(to, o);
}

// to[o·stride] = from[o]
void scatter(Bits& to, const uint64_t* from, int64_t from_count, int64_t stride) {
  const auto words = int64_t(to.words.size());
  to.clear();
  if (stride == 1) {
    std::copy_n(from, words, to.words.begin());
  } else if (stride == 2) {
    for (int64_t i = 0; i < words; i++) to.words[i] = doubled(from[i / 2] >> i % 2 * 32);
  } else {
    for (int64_t o = 0; o < from_count; o++)
      if (has(from, o)) add(to.words.data(), o * stride);
  }
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

// Positions o of `to` that read any of `from`, where o reads o·stride + shift of each tap.
void pull(Map& to, const Map& from, const Axis& y, const Axis& x) {
  const Size in = from.size(), out = to.size();
  std::vector<uint64_t> row(from.words());
  Bits taken((out.width - 1) * x.stride + 1);  // what an output would read if there were no stride
  for (int64_t o = 0; o < out.height; o++) {
    std::fill(row.begin(), row.end(), 0);
    for (int64_t tap = 0; tap < y.kernel; tap++) {
      const int64_t i = o * y.stride + shift_of(y, tap);
      if (i >= 0 && i < in.height) merge(row.data(), from.row(i), from.words());
    }
    if (!any(row.data(), from.words())) continue;
    taken.clear();
    for (int64_t tap = 0; tap < x.kernel; tap++)
      merge_shifted(taken.words.data(), taken.count, row.data(), from.words(), -shift_of(x, tap));
    gather(to.row(o), out.width, taken, x.stride);
  }
}

// Positions that any position o of `from` reads, the other way round.
void push(Map& to, const Map& from, const Axis& y, const Axis& x) {
  const Size in = from.size(), out = to.size();
  std::vector<uint64_t> row(to.words());
  Bits taken((in.width - 1) * x.stride + 1);
  for (int64_t o = 0; o < in.height; o++) {
    if (!any(from.row(o), from.words())) continue;
    scatter(taken, from.row(o), in.width, x.stride);
    std::fill(row.begin(), row.end(), 0);
    for (int64_t tap = 0; tap < x.kernel; tap++)
      merge_shifted(row.data(), out.width, taken.words.data(), int64_t(taken.words.size()), shift_of(x, tap));
    for (int64_t tap = 0; tap < y.kernel; tap++) {
      const int64_t i = o * y.stride + shift_of(y, tap);
      if (i >= 0 && i < out.height) merge(to.row(i), row.data(), to.words());
    }
  }
}

}  // namespace

Map::Map(Size size, bool full)
    : size_(size), words_(words_for(size.width)), bits_(size.height * words_, full ? ~UINT64_C(0) : 0) {
  for (int64_t y = 0; full && y < size.height; y++) cut(row(y), size.width);
}

Map::Map(Size size, const uint8_t* bytes) : Map(size) {
  for (int64_t y = 0; y < size.height; y++, bytes += size.width) {
    uint64_t* bits = row(y);
    int64_t x = 0;
    for (; x + 8 <= size.width; x += 8) {
      bits[x / kWord] |= packed(bytes + x) << x % kWord;
    }
    for (; x < size.width; x++)
      if (bytes[x]) add(bits, x);
  }
}

int64_t Map::count() const {
  int64_t count = 0;
  for (uint64_t bits : bits_) count += __builtin_popcountll(bits);
  return count;
}

Positions reached(const Map& from, const Op& op, const Taps& y, const Taps& x, Size size) {
  auto found = std::make_shared<Map>(size);
  if (op.kind != OpKind::kResize) {
    (op.kind == OpKind::kConvTranspose ? push : pull)(*found, from, op.y, op.x);
    return found;
  }
  std::vector<uint64_t> row(from.words());
  for (int64_t o = 0; o < size.height; o++) {
    std::fill(row.begin(), row.end(), 0);
    for (int64_t i = y.first[o]; i <= y.last[o]; i++) merge(row.data(), from.row(i), from.words());
    if (!any(row.data(), from.words())) continue;
    for (int64_t p = 0; p < size.width; p++)
      if (has(row.data(), x.first[p]) || has(row.data(), x.last[p])) add(found->row(o), p);
  }
  return found;
}

Positions needed(const Map& by, const Op& op, const Taps& y, const Taps& x, Size size) {
  auto found = std::make_shared<Map>(size);
  if (op.kind != OpKind::kResize) {
    (op.kind == OpKind::kConvTranspose ? pull : push)(*found, by, op.y, op.x);
    return found;
  }
  std::vector<uint64_t> row(found->words());
  for (int64_t o = 0; o < by.size().height; o++) {
    std::fill(row.begin(), row.end(), 0);
    by.each_run(o, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; p++) add(row.data(), x.first[p]), add(row.data(), x.last[p]);
    });
    for (int64_t i = y.first[o]; i <= y.last[o]; i++) merge(found->row(i), row.data(), found->words());
  }
  return found;
}

Positions united(const Positions& a, const Positions& b) {
  if (!a || a == b) return b;
  if (!b) return a;
  auto both = std::make_shared<Map>(*a);
  merge(both->bits_.data(), b->bits_.data(), int64_t(both->bits_.size()));
  // The same as one of the two where it holds the other: then what was worked out for that one holds again.
  if (both->bits_ == a->bits_) return a;
  return both->bits_ == b->bits_ ? b : both;
}

Positions common(const Positions& a, const Positions& b) {
  if (a == b) return a;
  auto both = std::make_shared<Map>(*a);
  for (size_t i = 0; i < both->bits_.size(); i++) both->bits_[i] &= b->bits_[i];
  if (both->bits_ == a->bits_) return a;
  return both->bits_ == b->bits_ ? b : both;
}

}  // namespace foveate
