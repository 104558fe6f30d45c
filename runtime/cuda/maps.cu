// Dirty maps, of masks and of what they reach; and what is counted of masks.
#include "common.cuh"

namespace foveate {
namespace {

template <class T, int kEach>
struct alignas(sizeof(T) * kEach) Elements {
  T of[kEach];
};

// kEach positions of a thread. `significant`: without the sign of a floating number, for −0 is 0.
template <class T, int kEach>
__global__ void __launch_bounds__(kThreads)
    support(uint8_t* __restrict__ map, const T* __restrict__ mask, T significant, int64_t channels, int64_t area) {
  const int64_t first = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kEach;
  if (first >= area) return;
  const T* from = mask + blockIdx.y * channels * area + first;
  T found[kEach] = {};
  for (int64_t c = 0; c < channels; c++) {
    const auto read = *reinterpret_cast<const Elements<T, kEach>*>(from + c * area);
#pragma unroll
    for (int i = 0; i < kEach; i++) found[i] |= read.of[i] & significant;
  }
  Elements<uint8_t, kEach> dirty;
#pragma unroll
  for (int i = 0; i < kEach; i++) dirty.of[i] = found[i] != 0;
  *reinterpret_cast<Elements<uint8_t, kEach>*>(map + blockIdx.y * area + first) = dirty;
}

template <class T>
int32_t launch_support(uint8_t* map, const void* mask, bool floating, int64_t batch, int64_t channels, int64_t area,
                       void* stream) {
  constexpr int kEach = 16 / sizeof(T);
  const auto* from = static_cast<const T*>(mask);
  const T significant = floating ? T(~T(0)) >> 1 : T(~T(0));
  const bool aligned = area % kEach == 0 && address(mask) % 16 == 0 && address(map) % kEach == 0;
  const dim3 grid(unsigned(ceil_div(area, aligned ? kThreads * kEach : kThreads)), unsigned(batch));
  return launch(aligned ? support<T, kEach> : support<T, 1>, grid, stream, map, from, significant, channels, area);
}

// A block goes through a part of an image's numbers. `exponent`: its bits are all set of what is not finite; 0: of none.
template <class T>
__global__ void __launch_bounds__(kThreads)
    tally(int* __restrict__ counts, const T* __restrict__ array, T significant, T exponent, int64_t size) {
  constexpr int kEach = 8;  // loads in flight of a thread
  const T* image = array + blockIdx.y * size;
  int wild = 0, dirty = 0;
  for (int64_t first = int64_t(blockIdx.x) * kThreads * kEach + threadIdx.x; first < size;
       first += int64_t(gridDim.x) * kThreads * kEach) {
#pragma unroll
    for (int i = 0; i < kEach; i++) {
      const int64_t at = first + i * kThreads;
      const T value = at < size ? image[at] & significant : T(0);
      dirty += value != 0, wild += exponent != 0 && (value & exponent) == exponent;
    }
  }
  for (int step = 16; step; step /= 2) {
    wild += __shfl_down_sync(kFull, wild, step);
    dirty += __shfl_down_sync(kFull, dirty, step);
  }
  if (threadIdx.x % 32) return;
  if (wild) atomicAdd(&counts[2 * blockIdx.y], wild);
  if (dirty) atomicAdd(&counts[2 * blockIdx.y + 1], dirty);
}

template <class T>
int32_t launch_tally(int32_t* counts, const void* array, bool floating, int64_t batch, int64_t size, void* stream) {
  constexpr int kMostBlocks = 512;  // of an image
  constexpr T kExponents[] = {0, 0, T(0x7c00), 0, T(0x7f800000), 0, 0, 0, T(0x7ff0000000000000)};
  const int64_t bytes = 2 * batch * int64_t(sizeof(int32_t));
  if (int32_t failed = cudaMemsetAsync(counts, 0, size_t(bytes), static_cast<cudaStream_t>(stream))) return failed;
  const dim3 grid(unsigned(std::min<int64_t>(ceil_div(size, kThreads * 8), kMostBlocks)), unsigned(batch));
  const T significant = floating ? T(~T(0)) >> 1 : T(~T(0)), exponent = floating ? kExponents[sizeof(T)] : T(0);
  return launch(tally<T>, grid, stream, counts, static_cast<const T*>(array), significant, exponent, size);
}

// f of an unsigned integer of so many bytes.
template <class F>
int32_t with_bits(int32_t bytes, F f) {
  switch (bytes) {
    case 1: return f(uint8_t{});
    case 2: return f(uint16_t{});
    case 4: return f(uint32_t{});
    case 8: return f(uint64_t{});
    default: return cudaErrorInvalidValue;
  }
}

constexpr int kMostTerms = 32;  // of a launch: its arguments hold 4 KiB
constexpr int kReachRows = 32;  // of a block's outputs, which are 32 wide
constexpr int kHeldRows = 512;  // of a source, at a time

struct Terms {
  FvReach of[kMostTerms];
  int count;
};

__device__ inline int base_of(const FvReach& term, int axis, int output) {
  return int(uint32_t(output) * uint32_t(term.num[axis]) / uint32_t(term.den[axis]));
}

// Whether any of row[begin … end] is dirty, for the ranges of a warp's lanes, as bits; ranges rise with lanes.
__device__ inline uint32_t any_in_row(const uint8_t* row, int width, int begin, int end) {
  const int lane = threadIdx.x % 32;
  const int from = max(__shfl_sync(kFull, begin, 0), 0), to = min(__shfl_sync(kFull, end, 31), width - 1);
  bool dirty = false;
  for (int chunk = from; chunk <= to; chunk += 32) {
    const int at = chunk + lane;
    const uint32_t bits = __ballot_sync(kFull, at <= to && row[at]);
    const int first = max(begin - chunk, 0), last = min(end - chunk, 31);
    if (first <= last) dirty |= (bits & (kFull << first) & (kFull >> (31 - last))) != 0;
  }
  return __ballot_sync(kFull, dirty);
}

// A block makes 32 × kReachRows outputs. Rows of a source become words, a bit for each output column; an output is the
// OR of words.
__global__ void __launch_bounds__(kThreads)
    reach(uint8_t* __restrict__ map, int height, int width, const __grid_constant__ Terms terms, bool more) {
  constexpr int kEach = kReachRows / kWarps;
  __shared__ uint32_t words[kHeldRows];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int x = blockIdx.x * 32 + lane, y0 = blockIdx.y * kReachRows, y1 = min(y0 + kReachRows, height) - 1;
  uint8_t* written = map + int64_t(blockIdx.z) * height * width;
  uint32_t dirty[kEach] = {};
  for (int t = 0; t < terms.count; t++) {
    const FvReach& term = terms.of[t];
    const uint8_t* source = term.source + int64_t(blockIdx.z) * term.size[0] * term.size[1];
    const int column = base_of(term, 1, x), left = column + term.low[1], right = column + term.high[1];
    const int top = max(base_of(term, 0, y0) + term.low[0], 0);
    const int bottom = min(base_of(term, 0, y1) + term.high[0], term.size[0] - 1);
    for (int held = top; held <= bottom; held += kHeldRows) {
      const int end = min(held + kHeldRows - 1, bottom);
      for (int row = held + warp; row <= end; row += kWarps) {
        const uint32_t word = any_in_row(source + int64_t(row) * term.size[1], term.size[1], left, right);
        if (lane == 0) words[row - held] = word;
      }
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kEach; i++) {
        const int base = base_of(term, 0, y0 + warp + i * kWarps);
        for (int row = max(base + term.low[0], held); row <= min(base + term.high[0], end); row++)
          dirty[i] |= words[row - held];
      }
      __syncthreads();
    }
  }
#pragma unroll
  for (int i = 0; i < kEach; i++) {
    const int y = y0 + warp + i * kWarps;
    if (x >= width || y >= height) continue;
    uint8_t& output = written[int64_t(y) * width + x];
    output = (dirty[i] >> lane & 1) | (more ? output : 0);
  }
}

// Indices are of 32 bits.
bool fits(const FvReach& term, const int32_t size[2]) {
  for (int axis = 0; axis < 2; axis++) {
    if (term.num[axis] < 1 || term.den[axis] < 1 || term.size[axis] < 1 || term.low[axis] > term.high[axis]) return false;
    const int64_t last = (int64_t(size[axis]) + 31) * term.num[axis];
    if (last + std::max(std::abs(int64_t(term.low[axis])), std::abs(int64_t(term.high[axis]))) > INT32_MAX) return false;
  }
  return true;
}

}  // namespace
}  // namespace foveate

using namespace foveate;

int32_t fv_cuda_support(uint8_t* map, const void* mask, int32_t element_bytes, int32_t floating, int64_t batch,
                        int64_t channels, int64_t area, void* stream) {
  if (batch < 0 || batch > kMostGrid || channels < 0 || area < 0) return cudaErrorInvalidValue;
  return with_bits(element_bytes, [&](auto kind) {
    return launch_support<decltype(kind)>(map, mask, floating != 0, batch, channels, area, stream);
  });
}

int32_t fv_cuda_tally(int32_t* counts, const void* array, int32_t element_bytes, int32_t floating, int64_t batch,
                      int64_t size, void* stream) {
  if (batch < 0 || batch > kMostGrid || size < 0 || (floating && element_bytes < 2)) return cudaErrorInvalidValue;
  return with_bits(element_bytes, [&](auto kind) {
    return launch_tally<decltype(kind)>(counts, array, floating != 0, batch, size, stream);
  });
}

int32_t fv_cuda_reach(uint8_t* map, const int32_t size[2], int64_t batch, const FvReach* terms, int32_t term_count,
                      void* stream) {
  if (batch < 0 || batch > kMostGrid || size[0] < 1 || size[1] < 1 || term_count < 0) return cudaErrorInvalidValue;
  const int64_t rows = ceil_div(size[0], kReachRows);
  if (rows > kMostGrid || !std::all_of(terms, terms + term_count, [&](const FvReach& t) { return fits(t, size); }))
    return cudaErrorInvalidValue;
  const dim3 grid(unsigned(ceil_div(size[1], 32)), unsigned(rows), unsigned(batch));
  int32_t first = 0;
  do {
    Terms some{};
    some.count = std::min(term_count - first, kMostTerms);
    std::copy_n(terms + first, some.count, some.of);
    if (int32_t failed = launch(reach, grid, stream, map, size[0], size[1], some, first > 0)) return failed;
    first += kMostTerms;
  } while (first < term_count);
  return cudaSuccess;
}
