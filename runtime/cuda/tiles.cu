// Dirty maps -> the tiles that hold something dirty, in order, whatever the order in which blocks run.
#include "tiles.cuh"

namespace foveate {
namespace {

constexpr int kMostMaps = 32;  // of a launch: its arguments hold 4 KiB

struct Map {
  const uint8_t* data;
  int size[2], positions[2];
  int chunk;  // bytes that are read at once
};

struct Maps {
  Map of[kMostMaps];
  int count;
};

template <int kBytes>
__device__ inline bool is_dirty(Chunk<kBytes> chunk) {
  uint32_t any = 0;
#pragma unroll
  for (uint32_t word : chunk.words) any |= word;
  return any;
}
__device__ inline bool is_dirty(Chunk<1> chunk) { return chunk.word; }

// Whether a rectangle of a map has anything dirty in it, for a warp. Its lanes stand over as many rows as they fill.
template <int kBytes>
__device__ bool any_in_box(const uint8_t* data, int64_t pitch, int top, int left, int bottom, int right) {
  constexpr int kEach = 8;  // loads in flight of a lane
  const int lane = threadIdx.x % 32, across = (right - left) / kBytes;
  int wide = 1;
  while (wide < across && wide < 32) wide *= 2;
  const int high = 32 / wide;
  for (int x = lane % wide; __any_sync(kFull, x < across); x += wide)
    for (int y0 = top; y0 < bottom; y0 += high * kEach) {
      bool dirty = false;
#pragma unroll
      for (int i = 0; i < kEach; i++) {
        const int y = y0 + i * high + lane / wide;
        if (y < bottom && x < across)
          dirty |= is_dirty(reinterpret_cast<const Chunk<kBytes>*>(data + y * pitch + left)[x]);
      }
      if (__any_sync(kFull, dirty)) return true;
    }
  return false;
}

__device__ bool any_in_tile(const Map& map, const Tiling& tiling, int image, int row, int column) {
  int begin[2], end[2];
  for (int axis = 0; axis < 2; axis++) {
    const int number = axis ? column : row, first = number * tiling.tile[axis];
    const int last = min(first + tiling.tile[axis], tiling.cells[axis]);
    begin[axis] = first * map.positions[axis];
    end[axis] = min(last * map.positions[axis], map.size[axis]);
  }
  const uint8_t* data = map.data + int64_t(image) * map.size[0] * map.size[1];
  switch (map.chunk) {
    case 16: return any_in_box<16>(data, map.size[1], begin[0], begin[1], end[0], end[1]);
    case 8: return any_in_box<8>(data, map.size[1], begin[0], begin[1], end[0], end[1]);
    case 4: return any_in_box<4>(data, map.size[1], begin[0], begin[1], end[0], end[1]);
    default: return any_in_box<1>(data, map.size[1], begin[0], begin[1], end[0], end[1]);
  }
}

// A block finds a word of 32 tiles' bits, a warp one tile after the other; the last block lists them.
__global__ void __launch_bounds__(kThreads)
    find_tiles(int32_t* __restrict__ places, int32_t* __restrict__ count, TileBits bits, Tiling tiling, int tiles,
               const __grid_constant__ Maps maps) {
  __shared__ uint32_t word;
  if (threadIdx.x == 0) word = 0;
  __syncthreads();
  const int of_image = tiling.count[0] * tiling.count[1];
  for (int bit = threadIdx.x / 32; bit < 32; bit += kWarps) {
    const int tile = int(blockIdx.x) * 32 + bit;
    if (tile >= tiles) break;
    const int rest = tile % of_image;
    bool dirty = false;
    for (int m = 0; m < maps.count && !dirty; m++)
      dirty = any_in_tile(maps.of[m], tiling, tile / of_image, rest / tiling.count[1], rest % tiling.count[1]);
    if (dirty && threadIdx.x % 32 == 0) atomicOr(&word, 1u << bit);
  }
  __syncthreads();
  if (threadIdx.x == 0) bits.words[blockIdx.x] = word;
  if (is_last_block(bits, gridDim.x)) list_tiles(bits, tiles, tiling, places, count);
}

}  // namespace
}  // namespace foveate

using namespace foveate;

int64_t fv_cuda_scratch_bytes(int64_t batch, const FvTileGrid* grid) {
  return 4 * (1 + TileBits::count(batch * Tiling(*grid).of_image()));
}

int32_t fv_cuda_find_tiles(int32_t* places, int32_t* count, void* scratch, const FvTileGrid* grid, int64_t batch,
                           const FvTileMap* maps, int32_t map_count, void* stream) {
  const Tiling tiling(*grid);
  const int64_t tiles = batch * tiling.of_image();
  if (!Tiling::valid(*grid) || batch < 1 || tiles > INT32_MAX / 4 || map_count < 0 || map_count > kMostMaps)
    return cudaErrorInvalidValue;
  Maps given{};
  given.count = map_count;
  for (int m = 0; m < map_count; m++) {
    const FvTileMap& map = maps[m];
    for (int axis = 0; axis < 2; axis++)
      if (map.size[axis] < 1 || map.positions[axis] < 1 ||
          int64_t(tiling.cells[axis] + tiling.tile[axis]) * map.positions[axis] > INT32_MAX)
        return cudaErrorInvalidValue;
    const int chunk = chunk_of(address(map.map) | map.size[1] | int64_t(tiling.tile[1]) * map.positions[1]);
    given.of[m] = {map.map, {map.size[0], map.size[1]}, {map.positions[0], map.positions[1]}, chunk == 2 ? 1 : chunk};
  }
  return launch(find_tiles, dim3(unsigned(TileBits::count(tiles))), stream, places, count, TileBits(scratch), tiling,
                int(tiles), given);
}
