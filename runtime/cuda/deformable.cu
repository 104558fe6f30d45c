// ai.foveate::DeformableSample: a thread reads one chunk of channels at all points of a query and head.
#include "common.cuh"

namespace foveate {
namespace {

template <class T, int kEach>
struct alignas(sizeof(T) * kEach) Channels {
  T of[kEach];
};

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline void store(float& to, float x) { to = x; }
__device__ inline void store(__half& to, float x) { to = __float2half_rn(x); }

// A point at (x, y) in positions, 0 the middle of the first: its four neighbours, those that are there. `step` of a row.
template <class T, int kEach>
__device__ inline void add_point(float (&sum)[kEach], const Channels<T, kEach>* map, int64_t step, int height, int width,
                                 float x, float y, float share) {
  if (!(x > -1 && y > -1 && x < float(width) && y < float(height))) return;  // NaN, too
  const int left = int(floorf(x)), top = int(floorf(y));
  const float right_share = x - float(left), low_share = y - float(top);
  const Channels<T, kEach>* at = map + (int64_t(top) * width + left) * step;
  const bool has_left = left >= 0, has_right = left + 1 < width, has_top = top >= 0, has_low = top + 1 < height;
  Channels<T, kEach> read[4] = {};  // all on their way before the first is used
  if (has_top && has_left) read[0] = at[0];
  if (has_top && has_right) read[1] = at[step];
  if (has_low && has_left) read[2] = at[width * step];
  if (has_low && has_right) read[3] = at[(width + 1) * step];
  const float high_share = share * (1 - low_share), left_share = 1 - right_share;
  share *= low_share;
#pragma unroll
  for (int i = 0; i < kEach; i++)
    sum[i] += high_share * (left_share * to_float(read[0].of[i]) + right_share * to_float(read[1].of[i])) +
              share * (left_share * to_float(read[2].of[i]) + right_share * to_float(read[3].of[i]));
}

struct Job {
  FvDeformable op;
  Divisor chunks, heads;  // of a row of a head
  uint32_t threads;       // of an image
};

template <class T, int kEach>
__global__ void __launch_bounds__(kThreads, 4) deformable_sample(const __grid_constant__ Job job) {
  const FvDeformable& op = job.op;
  const uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  if (index >= job.threads) return;
  uint32_t chunk = index;
  const uint32_t item = job.chunks.split(chunk);  // of a query and head
  uint32_t head = item;
  job.heads.split(head);
  const int64_t step = op.heads * job.chunks.value, number = blockIdx.y * op.queries * op.heads + item;
  const auto* map = static_cast<const Channels<T, kEach>*>(op.value) + blockIdx.y * op.tokens * step +
                    head * job.chunks.value + chunk;
  const int64_t points = op.levels * op.points;
  const auto* place = reinterpret_cast<const Channels<float, 2>*>(op.locations) + number * points;
  const T* share = static_cast<const T*>(op.weights) + number * points;
  float sum[kEach] = {};
  int64_t left = op.tokens;  // that no level has taken
  for (int level = 0; level < int(op.levels); level++) {
    const int height = int(op.sizes[2 * level]), width = int(op.sizes[2 * level + 1]);
    const int64_t area = int64_t(height) * width;
    if (height < 0 || width < 0 || area > left) break;  // sizes that are not those of the tokens: nothing outside is read
#pragma unroll 2
    for (int point = 0; point < int(op.points); point++, place++, share++) {
      const Channels<float, 2> at = *place;
      add_point(sum, map, step, height, width, at.of[0] * float(width) - 0.5f, at.of[1] * float(height) - 0.5f,
                to_float(*share));
    }
    map += area * step, left -= area;
  }
  Channels<T, kEach> read;
#pragma unroll
  for (int i = 0; i < kEach; i++) store(read.of[i], sum[i]);
  static_cast<Channels<T, kEach>*>(op.read)[number * job.chunks.value + chunk] = read;
}

template <class T>
int32_t launch_as(const FvDeformable& op, void* stream) {
  const int64_t row = op.channels * int64_t(sizeof(T));
  const int bytes = chunk_of(address(op.value) | address(op.read) | row);
  const auto with = [&](auto kernel, int each) -> int32_t {
    const int64_t chunks = op.channels / each, threads = op.queries * op.heads * chunks;
    if (threads > INT32_MAX) return cudaErrorInvalidValue;
    const Job job{op, Divisor(uint32_t(chunks)), Divisor(uint32_t(op.heads)), uint32_t(threads)};
    return launch(kernel, dim3(unsigned(ceil_div(threads, kThreads)), unsigned(op.batch)), stream, job);
  };
  constexpr int kMost = 16 / sizeof(T);
  if (bytes == 16) return with(deformable_sample<T, kMost>, kMost);
  if (bytes == 8) return with(deformable_sample<T, kMost / 2>, kMost / 2);
  return with(deformable_sample<T, 1>, 1);
}

}  // namespace
}  // namespace foveate

using namespace foveate;

int32_t fv_cuda_deformable_sample(const FvDeformable* op, void* stream) {
  if (op->batch < 0 || op->batch > kMostGrid || op->tokens < 0 || op->heads < 1 || op->channels < 1 || op->queries < 0 ||
      op->levels < 1 || op->points < 0 || op->levels > INT32_MAX || op->points > INT32_MAX || address(op->locations) % 8)
    return cudaErrorInvalidValue;
  if (op->element_bytes == 4) return launch_as<float>(*op, stream);
  if (op->element_bytes == 2) return launch_as<__half>(*op, stream);
  return cudaErrorInvalidValue;
}
