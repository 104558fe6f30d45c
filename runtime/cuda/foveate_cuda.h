// The C ABI of Foveate's CUDA kernels, which library.py declares for ctypes.
//
// Pointers are to the memory of the current device and stay the caller's, but for the structs here, which are read from
// the host before a function returns. Arrays are C-contiguous. Work is queued on `stream` (a cudaStream_t); nothing waits
// for the device, allocates or synchronizes, so every function may be captured in a CUDA graph. Returns a cudaError_t: 0,
// or what the launch failed of; arguments that no kernel takes are 1, cudaErrorInvalidValue.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
#define FV_CUDA_API extern "C" __attribute__((visibility("default")))
#else
#define FV_CUDA_API
#endif

// Raised whenever a signature or a struct changes: a library of another version is not loaded.
enum { FV_CUDA_ABI = 1 };

FV_CUDA_API int32_t fv_cuda_abi(void);
// The name of an error, as "cudaErrorInvalidValue".
FV_CUDA_API const char* fv_cuda_error(int32_t error);

// Pairs are (height, width). See device.py for what these are.
typedef struct {
  const uint8_t* source;  // map [batch, size]
  int32_t size[2], num[2], den[2], low[2], high[2];
} FvReach;

typedef struct {
  const uint8_t* map;  // [batch, size]
  int32_t size[2], positions[2];
} FvTileMap;

// In cells. A tile's own cells are those from (i·tile, j·tile) on that lie in the grid, without those that its last row
// and column share with the ones before: every cell is one tile's own. The window of tile + halos is no larger than the
// grid.
typedef struct {
  int32_t cells[2], tile[2], low[2], high[2];
} FvTileGrid;

// What is dirty of a grid: `places` int32 [capacity, 3] of (image, row, column) of the tiles' first cells in that order,
// count int32 [1]. Capacity: batch · tiles of an image.
typedef struct {
  const int32_t* places;
  const int32_t* count;
  FvTileGrid grid;
} FvTiles;

// A tensor [batch, channels, size], with elements of 1, 2, 4 or 8 bytes, that has `positions` a cell. Of what lies past
// its border in the last cells, nothing is written and 0 is read.
typedef struct {
  void* data;
  int64_t batch, channels;
  int32_t size[2], positions[2];
  int32_t element_bytes;
} FvTensor;

// target[i] = source[rows[i]] for i < n, rows int32.
FV_CUDA_API int32_t fv_cuda_take_rows(void* target, const void* source, const int32_t* rows, int64_t n,
                                      int64_t row_bytes, void* stream);
// target[rows[i]] = source[i]. No row twice.
FV_CUDA_API int32_t fv_cuda_put_rows(void* target, const void* source, const int32_t* rows, int64_t n,
                                     int64_t row_bytes, void* stream);
// target[i] = source for i < n: [1, …] repeated to [n, …].
FV_CUDA_API int32_t fv_cuda_repeat(void* target, const void* source, int64_t n, int64_t row_bytes, void* stream);

// map [batch, area]: 1 where any of mask [batch, channels, area] is not 0. `floating`: −0 is 0, too.
FV_CUDA_API int32_t fv_cuda_support(uint8_t* map, const void* mask, int32_t element_bytes, int32_t floating,
                                    int64_t batch, int64_t channels, int64_t area, void* stream);

// counts int32 [batch, 2]: how many of an image's numbers, of array [batch, size], are NaN or infinite, and how many are
// not 0.
FV_CUDA_API int32_t fv_cuda_tally(int32_t* counts, const void* array, int32_t element_bytes, int32_t floating,
                                  int64_t batch, int64_t size, void* stream);

// map [batch, size]: the union of what the terms reach.
FV_CUDA_API int32_t fv_cuda_reach(uint8_t* map, const int32_t size[2], int64_t batch, const FvReach* terms,
                                  int32_t term_count, void* stream);

// The tiles with own cells that any map has something dirty in, in order, by one launch. `scratch`: of
// fv_cuda_scratch_bytes, 0 before its first use and left 0 by each; not for two streams at once.
FV_CUDA_API int64_t fv_cuda_scratch_bytes(int64_t batch, const FvTileGrid* grid);
FV_CUDA_API int32_t fv_cuda_find_tiles(int32_t* places, int32_t* count, void* scratch, const FvTileGrid* grid,
                                       int64_t batch, const FvTileMap* maps, int32_t map_count, void* stream);

// windows [n, channels, window · positions] of n tiles, from the one of number `first` on; past the last it is repeated; of
// none, they are left as they are. A source of batch 1 serves all images.
FV_CUDA_API int32_t fv_cuda_take_windows(void* windows, const FvTensor* source, const FvTiles* tiles, int64_t first,
                                         int64_t n, void* stream);
// The tiles' own cells, from their windows into the target, in place.
FV_CUDA_API int32_t fv_cuda_put_windows(const FvTensor* target, const void* windows, const FvTiles* tiles, int64_t first,
                                        int64_t n, void* stream);
// The own cells of the first n tiles, from a reference [1, channels, size] into the target.
FV_CUDA_API int32_t fv_cuda_restore_tiles(const FvTensor* target, const void* reference, const FvTiles* tiles, int64_t n,
                                          void* stream);

// ai.foveate::EnergyMask: see export/ops/energy_mask.py. `element_bytes` of x and keep: 4 (float) or 2 (half); all else is
// float, the scalars too, which lie on the device. `map`: null, or where keep is not 0. `grid`: null, or finds the tiles
// of keep in the same launch, with `positions` a cell; `scratch` as above.
typedef struct {
  const void* x;  // [batch, channels, size]
  const float *weight, *bias, *threshold, *temperature, *lambda, *gamma;
  void* keep;              // [batch, 1, size]
  float *logits, *energy;  // [batch, 1, ⌈size / patch⌉], each may be null
  int64_t batch, channels;
  int32_t size[2];
  int32_t patch, soft, element_bytes;
  uint8_t* map;  // [batch, size]
  const FvTileGrid* grid;
  int32_t positions[2];
  int32_t *places, *count;
  void* scratch;
} FvEnergyMask;
FV_CUDA_API int32_t fv_cuda_energy_mask(const FvEnergyMask* op, void* stream);

// ai.foveate::DeformableSample: see export/ops/deformable_sample.py. `element_bytes` of value, weights and read: 4 (float)
// or 2 (half); locations are float.
typedef struct {
  const void* value;       // [batch, tokens, heads, channels]
  const int64_t* sizes;    // [levels, 2]
  const float* locations;  // [batch, queries, heads, levels, points, 2]
  const void* weights;     // [batch, queries, heads, levels, points]
  void* read;              // [batch, queries, heads · channels]
  int64_t batch, tokens, heads, channels, queries, levels, points;
  int32_t element_bytes;
} FvDeformable;
FV_CUDA_API int32_t fv_cuda_deformable_sample(const FvDeformable* op, void* stream);
