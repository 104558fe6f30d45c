// ai.foveate::EnergyMask in one launch: scores, mask, dirty map and tiles.
#include <type_traits>

#include "tiles.cuh"

namespace foveate {
namespace {

// A block scores kRows × kColumns tokens. Each of its warps goes through a part of the channels: a lane holds one column
// of tokens, with one more row and column around, and adds up what it needs of pairs of tokens, those of the four
// neighbours that come later. So a feature is loaded once, but at the borders of blocks.
constexpr int kRows = kWarps, kHeld = kRows + 2, kColumns = 30;

// Where a lane's sums of row r stand: of squares, of products with the weights, and of pairs with the token to the right,
// below, and on both diagonals: (r, x)·(r + 1, x + 1) falls, (r, x + 1)·(r + 1, x) rises.
constexpr int kSquare = 0, kProduct = kSquare + kHeld, kRight = kProduct + kRows, kBelow = kRight + kRows,
              kFalling = kBelow + kRows + 1, kRising = kFalling + kRows + 1, kSums = kRising + kRows + 1;

struct Job {
  FvEnergyMask op;
  int tokens[2];
  Tiling tiling;
  TileBits bits;
  bool list;  // tiles are asked for
};

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline void store(float* to, float x) { *to = x; }
__device__ inline void store(__half* to, float x) { *to = __float2half_rn(x); }

__device__ inline float softplus(float x) { return fmaxf(x, 0) + log1pf(expf(-fabsf(x))); }

// Adds one channel (of a position in patches) to a lane's sums. Of rows 1 … kRows the tokens are scored.
__device__ inline void add(float (&sums)[kSums], const float (&value)[kHeld], float weight) {
  float right[kHeld];
#pragma unroll
  for (int r = 0; r < kHeld; r++) {
    right[r] = __shfl_down_sync(kFull, value[r], 1);
    sums[kSquare + r] += value[r] * value[r];
  }
#pragma unroll
  for (int r = 0; r < kRows; r++) {
    sums[kProduct + r] += weight * value[r + 1];
    sums[kRight + r] += value[r + 1] * right[r + 1];
  }
#pragma unroll
  for (int r = 0; r <= kRows; r++) {
    sums[kBelow + r] += value[r] * value[r + 1];
    sums[kFalling + r] += value[r] * right[r + 1];
    sums[kRising + r] += right[r] * value[r + 1];
  }
}

// All that lies before (top, left) or behind the map is 0.
template <class T>
__device__ void sum_channels(float (&sums)[kSums], const FvEnergyMask& op, int top, int left) {
  const int lane = threadIdx.x % 32, patch = op.patch, height = op.size[0], width = op.size[1];
  const int64_t plane = int64_t(height) * width;
  const T* image = static_cast<const T*>(op.x) + int64_t(blockIdx.z) * op.channels * plane;
  const int lines = int(op.channels) * patch;  // a line: a channel and a row in patches
  for (int line = threadIdx.x / 32; line < lines; line += kWarps) {
    const int channel = patch == 1 ? line : line / patch, dy = patch == 1 ? 0 : line % patch;
    for (int dx = 0; dx < patch; dx++) {
      const int x = (left + lane) * patch + dx;
      const T* column = image + channel * plane + x;
      float value[kHeld];
#pragma unroll
      for (int r = 0; r < kHeld; r++) {
        const int y = (top + r) * patch + dy;
        const bool there = unsigned(y) < unsigned(height) && unsigned(x) < unsigned(width);
        value[r] = there ? to_float(column[int64_t(y) * width]) : 0;
      }
      add(sums, value, op.weight[(dy * patch + dx) * op.channels + channel]);
    }
  }
}

// The sums of all warps in the first one's, always in one order, and in shared[sum][lane] for all.
__device__ void sum_warps(float (&sums)[kSums], float (*shared)[kSums][32]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int half = kWarps / 2; half; half /= 2) {
    if (warp >= half && warp < 2 * half)
#pragma unroll
      for (int s = 0; s < kSums; s++) shared[warp - half][s][lane] = sums[s];
    __syncthreads();
    if (warp < half)
#pragma unroll
      for (int s = 0; s < kSums; s++) sums[s] += shared[warp][s][lane];
    __syncthreads();
  }
  if (warp == 0)
#pragma unroll
    for (int s = 0; s < kSums; s++) shared[0][s][lane] = sums[s];
  __syncthreads();
}

// Sets the bits of the tiles that own a box of positions, which is kept. Only few of many threads get to the atomic.
__device__ inline void set_tiles(const Job& job, int top, int left, int bottom, int right) {
  const Tiling& tiling = job.tiling;
  const int cell[2] = {job.op.positions[0] * tiling.tile[0], job.op.positions[1] * tiling.tile[1]};
  for (int row = top / cell[0]; row <= bottom / cell[0] && row < tiling.count[0]; row++)
    for (int column = left / cell[1]; column <= right / cell[1] && column < tiling.count[1]; column++) {
      const uint32_t tile = (blockIdx.z * tiling.count[0] + row) * tiling.count[1] + column, bit = 1u << tile % 32;
      if (!(__ldcg(&job.bits.words[tile / 32]) & bit)) atomicOr(&job.bits.words[tile / 32], bit);
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads) energy_mask(const __grid_constant__ Job job) {
  __shared__ float shared[kWarps / 2][kSums][32];
  const FvEnergyMask& op = job.op;
  const int top = int(blockIdx.y) * kRows - 1, left = int(blockIdx.x) * kColumns - 1;
  float sums[kSums] = {};
  sum_channels<T>(sums, op, top, left);
  sum_warps(sums, shared);

  const int lane = threadIdx.x % 32, row = threadIdx.x / 32, y = top + 1 + row, x = left + lane;
  if (lane >= 1 && lane <= kColumns && y < job.tokens[0] && x < job.tokens[1]) {
    const float(&sum)[kSums][32] = shared[0];
    const auto norm = [&](int r, int at) { return sqrtf(sum[kSquare + r][at]) + 1e-6f; };
    const float z = sum[kProduct + row][lane] / norm(row + 1, lane) + *op.bias;
    const int64_t token = (int64_t(blockIdx.z) * job.tokens[0] + y) * job.tokens[1] + x;
    if (op.logits) op.logits[token] = z;
    if (op.energy) {
      const int above = row, here = row + 1, below = row + 2;
      const float coherence =
          (sum[kRight + row][lane - 1] / norm(here, lane - 1) + sum[kRight + row][lane] / norm(here, lane + 1) +
           sum[kBelow + above][lane] / norm(above, lane) + sum[kBelow + here][lane] / norm(below, lane) +
           sum[kFalling + above][lane - 1] / norm(above, lane - 1) + sum[kFalling + here][lane] / norm(below, lane + 1) +
           sum[kRising + above][lane] / norm(above, lane + 1) + sum[kRising + here][lane - 1] / norm(below, lane - 1)) /
          norm(here, lane);
      op.energy[token] = *op.lambda * softplus(z) + *op.gamma * softplus(coherence);
    }
    const float kept = 1 / (1 + expf(z / *op.temperature));
    const bool keep = kept > *op.threshold;
    const float said = !keep ? 0 : op.soft ? kept : 1;
    const int last_y = min((y + 1) * op.patch, op.size[0]) - 1, last_x = min((x + 1) * op.patch, op.size[1]) - 1;
    for (int at_y = y * op.patch; at_y <= last_y; at_y++)
      for (int at_x = x * op.patch; at_x <= last_x; at_x++) {
        const int64_t at = (int64_t(blockIdx.z) * op.size[0] + at_y) * op.size[1] + at_x;
        store(static_cast<T*>(op.keep) + at, said);
        if (op.map) op.map[at] = said != 0;
      }
    if (job.list && said != 0) set_tiles(job, y * op.patch, x * op.patch, last_y, last_x);
  }
  if (job.list && is_last_block(job.bits, gridDim.x * gridDim.y * gridDim.z))
    list_tiles(job.bits, int64_t(op.batch) * job.tiling.count[0] * job.tiling.count[1], job.tiling, op.places, op.count);
}

}  // namespace
}  // namespace foveate

using namespace foveate;

int32_t fv_cuda_energy_mask(const FvEnergyMask* given, void* stream) {
  const FvEnergyMask& op = *given;
  const bool half = op.element_bytes == 2;
  if (op.batch < 0 || op.batch > kMostGrid || op.channels < 1 || op.patch < 1 || op.size[0] < 1 || op.size[1] < 1 ||
      (!half && op.element_bytes != 4) || op.channels * op.patch > INT32_MAX)
    return cudaErrorInvalidValue;
  Job job{op, {int(ceil_div(op.size[0], op.patch)), int(ceil_div(op.size[1], op.patch))}, Tiling(FvTileGrid{}),
          TileBits(op.scratch), op.grid != nullptr};
  for (int size : op.size)
    if (int64_t(size) + (kRows + kColumns) * int64_t(op.patch) > INT32_MAX) return cudaErrorInvalidValue;
  if (op.grid) {
    job.tiling = Tiling(*op.grid);
    if (!Tiling::valid(*op.grid) || op.positions[0] < 1 || op.positions[1] < 1 ||
        op.batch * job.tiling.of_image() > INT32_MAX / 4)
      return cudaErrorInvalidValue;
  }
  const dim3 blocks(unsigned(ceil_div(job.tokens[1], kColumns)), unsigned(ceil_div(job.tokens[0], kRows)),
                    unsigned(op.batch));
  if (blocks.y > kMostGrid) return cudaErrorInvalidValue;
  return launch(half ? energy_mask<__half> : energy_mask<float>, blocks, stream, job);
}
