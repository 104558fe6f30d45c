// Windows of a map, gathered into a batch, and their tiles, written back in place.
#include "tiles.cuh"

namespace foveate {
namespace {

enum class Copy { kTake, kPut, kRestore };

// All widths in chunks.
struct Job {
  const int32_t *places, *count;
  Tiling tiling;
  int positions, cell_bytes;  // of a cell: rows, and what lies across
  int height, width;          // of the map
  int window_height, window_width;
  Divisor box_width, box_height;  // of what is copied: the window, or the tile
  uint32_t volume;                // of the box, over all channels
  int64_t channels, images;       // of what is read, when it has fewer images than the map: 1
  int64_t number, n;              // of tiles: the first, and how many
  bool inside;  // all cells are whole
};

// A block copies a part of every gridDim.y-th box. What is written by take, and what is read by put, lies in a row.
template <class T, Copy kCopy>
__global__ void __launch_bounds__(kThreads)
    copy_boxes(T* __restrict__ target, const T* __restrict__ source, const Job job) {
  constexpr int kEach = 4;  // loads in flight of a thread
  const int count = *job.count;
  const uint32_t begin = blockIdx.x * kThreads * kEach + threadIdx.x;
  const int64_t plane = int64_t(job.height) * job.width;
  for (int64_t number = blockIdx.y; number < job.n; number += gridDim.y) {
    if (kCopy == Copy::kTake ? count < 1 : job.number + number >= count) return;
    const int32_t* place = job.places + 3 * min(job.number + number, int64_t(count) - 1);
    const int64_t image = place[0];
    int first[2], own[2], origin[2];  // of the map
#pragma unroll
    for (int axis = 0; axis < 2; axis++) {
      const int cell = place[1 + axis];
      const auto at = [&](int cells) {
        return axis ? int(int64_t(cells) * job.cell_bytes / int(sizeof(T))) : cells * job.positions;
      };
      first[axis] = at(cell), own[axis] = at(job.tiling.own(axis, cell)), origin[axis] = at(job.tiling.origin(axis, cell));
    }
    T held[kEach];
    int64_t to[kEach];
#pragma unroll
    for (int i = 0; i < kEach; i++) {
      to[i] = -1;
      const uint32_t index = begin + i * kThreads;
      if (index >= job.volume) continue;
      uint32_t x = index, y = job.box_width.split(x);
      const uint32_t channel = job.box_height.split(y);
      if (kCopy == Copy::kTake) {
        const int row = origin[0] + int(y), column = origin[1] + int(x);
        to[i] = number * job.volume + index;
        held[i] = T{};
        if (job.inside || (row < job.height && column < job.width))
          held[i] = source[(min(image, job.images - 1) * job.channels + channel) * plane + int64_t(row) * job.width + column];
      } else {
        const int row = first[0] + int(y), column = first[1] + int(x);
        if (row < own[0] || column < own[1] || !(job.inside || (row < job.height && column < job.width))) continue;
        const int64_t at = channel * plane + int64_t(row) * job.width + column;
        to[i] = image * job.channels * plane + at;
        if (kCopy == Copy::kPut) {
          const int64_t line = (number * job.channels + channel) * job.window_height + (row - origin[0]);
          held[i] = source[line * job.window_width + (column - origin[1])];
        } else {
          held[i] = source[at];
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kEach; i++)
      if (to[i] >= 0) target[to[i]] = held[i];
  }
}

template <Copy kCopy>
int32_t copy(const FvTensor& map, const void* other, const FvTiles& tiles, int64_t first, int64_t n, void* stream) {
  const FvTileGrid& grid = tiles.grid;
  const Tiling tiling(grid);
  const int64_t bytes = map.element_bytes;
  if (!Tiling::valid(grid) || map.batch < 1 || map.channels < 1 || first < 0 || n < 0) return cudaErrorInvalidValue;
  if (bytes != 1 && bytes != 2 && bytes != 4 && bytes != 8) return cudaErrorInvalidValue;
  for (int axis = 0; axis < 2; axis++)
    if (map.size[axis] < 1 || map.positions[axis] < 1 ||
        int64_t(grid.cells[axis]) * map.positions[axis] * bytes > INT32_MAX)
      return cudaErrorInvalidValue;

  // Windows and tiles start at sums of these, and end there.
  const int64_t starts = int64_t(grid.tile[1]) | grid.low[1] | (grid.cells[1] - tiling.window[1]) |
                         (grid.cells[1] - grid.tile[1]) | tiling.window[1];
  const int64_t cell = bytes * map.positions[1];
  const int chunk = chunk_of(address(map.data) | address(other) | bytes * map.size[1] | cell * (starts & -starts));
  if (chunk % bytes && bytes % chunk) return cudaErrorInvalidValue;

  return with_chunk(chunk, [&](auto unit) -> int32_t {
    using T = decltype(unit);
    const auto chunks = [&](int64_t positions) { return positions * bytes / chunk; };
    const int* box = kCopy == Copy::kTake ? tiling.window : tiling.tile;
    const int64_t box_height = int64_t(box[0]) * map.positions[0], box_width = chunks(int64_t(box[1]) * map.positions[1]);
    const int64_t volume = map.channels * box_height * box_width;
    if (volume > INT32_MAX || chunks(map.size[1]) > INT32_MAX) return cudaErrorInvalidValue;
    Job job{tiles.places, tiles.count, tiling};
    job.positions = map.positions[0], job.cell_bytes = int(cell);
    job.height = map.size[0], job.width = int(chunks(map.size[1]));
    job.window_height = tiling.window[0] * map.positions[0];
    job.window_width = int(chunks(int64_t(tiling.window[1]) * map.positions[1]));
    job.box_width = Divisor(uint32_t(box_width)), job.box_height = Divisor(uint32_t(box_height));
    job.volume = uint32_t(volume), job.channels = map.channels, job.images = map.batch;
    job.number = first, job.n = n;
    job.inside = grid.cells[0] * map.positions[0] <= map.size[0] && grid.cells[1] * map.positions[1] <= map.size[1];
    const dim3 blocks(unsigned(ceil_div(volume, kThreads * 4)), unsigned(std::min<int64_t>(n, kMostGrid)));
    void *target = map.data, *source = const_cast<void*>(other);
    if (kCopy == Copy::kTake) std::swap(target, source);
    return launch(copy_boxes<T, kCopy>, blocks, stream, static_cast<T*>(target), static_cast<const T*>(source), job);
  });
}

}  // namespace
}  // namespace foveate

using namespace foveate;

int32_t fv_cuda_take_windows(void* windows, const FvTensor* source, const FvTiles* tiles, int64_t first, int64_t n,
                             void* stream) {
  return copy<Copy::kTake>(*source, windows, *tiles, first, n, stream);
}

int32_t fv_cuda_put_windows(const FvTensor* target, const void* windows, const FvTiles* tiles, int64_t first, int64_t n,
                            void* stream) {
  return copy<Copy::kPut>(*target, windows, *tiles, first, n, stream);
}

int32_t fv_cuda_restore_tiles(const FvTensor* target, const void* reference, const FvTiles* tiles, int64_t n,
                              void* stream) {
  return copy<Copy::kRestore>(*target, reference, *tiles, 0, n, stream);
}
