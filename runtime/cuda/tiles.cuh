// Tiles over a grid of cells; see device.py and foveate_cuda.h.
#pragma once
#include "common.cuh"

namespace foveate {

struct Tiling {
  int cells[2], tile[2], low[2], window[2];
  int count[2];  // of tiles, of an image

  explicit Tiling(const FvTileGrid& grid) {
    for (int axis = 0; axis < 2; axis++) {
      cells[axis] = grid.cells[axis], tile[axis] = grid.tile[axis], low[axis] = grid.low[axis];
      window[axis] = grid.low[axis] + grid.tile[axis] + grid.high[axis];
      count[axis] = valid(grid) ? int(ceil_div(cells[axis], tile[axis])) : 0;
    }
  }
  static bool valid(const FvTileGrid& grid) {
    for (int axis = 0; axis < 2; axis++)
      if (grid.tile[axis] < 1 || grid.low[axis] < 0 || grid.high[axis] < 0 ||
          int64_t(grid.low[axis]) + grid.tile[axis] + grid.high[axis] > grid.cells[axis])
        return false;
    return true;
  }
  int64_t of_image() const { return int64_t(count[0]) * count[1]; }

  // Of a tile's number along an axis, its first cell; the last lies inside.
  __host__ __device__ int first(int axis, int number) const {
    const int inside = cells[axis] - tile[axis], start = number * tile[axis];
    return start < inside ? start : inside;
  }
  // Of a tile's first cell, the first that is its own; its last is its own.
  __host__ __device__ int own(int axis, int first) const { return (first + tile[axis] - 1) / tile[axis] * tile[axis]; }
  // Of a tile's first cell, its window's.
  __host__ __device__ int origin(int axis, int first) const {
    const int start = first - low[axis], inside = cells[axis] - window[axis];
    return start < 0 ? 0 : start < inside ? start : inside;
  }
};

// Scratch: a ticket, then a bit for each tile of the batch.
struct TileBits {
  uint32_t* ticket;
  uint32_t* words;

  explicit TileBits(void* scratch) : ticket(static_cast<uint32_t*>(scratch)), words(ticket + 1) {}
  static int64_t count(int64_t tiles) { return ceil_div(tiles, 32); }
};

// Once for all threads of each block, when its bits are set: whether this block is the last to come here, which then
// sees the bits of all. The ticket is 0 again afterwards.
__device__ inline bool is_last_block(const TileBits& bits, unsigned blocks) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicInc(bits.ticket, blocks - 1) == blocks - 1;
  __syncthreads();
  __threadfence();
  return last;
}

// Lists the tiles whose bits are set in order, and clears the bits: the work of one block. A thread takes a word, and
// prefix sums say where its tiles go.
__device__ inline void list_tiles(const TileBits& bits, int64_t tiles, const Tiling& tiling, int32_t* places,
                                  int32_t* count) {
  __shared__ int before[kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, words = int(ceil_div(tiles, 32));
  const int of_image = tiling.count[0] * tiling.count[1];
  int listed = 0;
  for (int first = 0; first < words; first += kThreads) {
    const int index = first + int(threadIdx.x);
    uint32_t word = 0;
    if (index < words) word = __ldcg(&bits.words[index]), bits.words[index] = 0;
    const int own = __popc(word);
    int upto = own;
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(kFull, upto, step);
      if (lane >= step) upto += other;
    }
    if (lane == 31) before[warp] = upto;
    __syncthreads();
    int place = listed + upto - own;
    for (int w = 0; w < kWarps; w++) {
      if (w < warp) place += before[w];
      listed += before[w];
    }
    for (; word; word &= word - 1, place++) {
      const int tile = index * 32 + __ffs(int(word)) - 1, image = tile / of_image, rest = tile % of_image;
      places[3 * place] = image;
      places[3 * place + 1] = tiling.first(0, rest / tiling.count[1]);
      places[3 * place + 2] = tiling.first(1, rest % tiling.count[1]);
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) *count = listed;
}

}  // namespace foveate
