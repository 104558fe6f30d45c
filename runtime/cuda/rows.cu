// Whole rows: images of a batch, gathered and scattered.
#include "common.cuh"

namespace foveate {
namespace {

// Rows of `size` chunks. Which row is read, and which written; null: the first to all, or each to its own place.
struct Rows {
  const int32_t *from, *to;
  int64_t count, size;
};

template <class T>
__global__ void __launch_bounds__(kThreads) copy_rows(T* __restrict__ target, const T* __restrict__ source, Rows rows) {
  constexpr int kEach = 4;  // loads in flight of a thread
  const int64_t first = int64_t(blockIdx.x) * kThreads * kEach + threadIdx.x;
  for (int64_t row = blockIdx.y; row < rows.count; row += gridDim.y) {
    const int64_t from = rows.from ? rows.from[row] : rows.to ? row : 0, to = rows.to ? rows.to[row] : row;
    const T* read = source + from * rows.size;
    T* written = target + to * rows.size;
    T held[kEach];
#pragma unroll
    for (int i = 0; i < kEach; i++)
      if (first + i * kThreads < rows.size) held[i] = read[first + i * kThreads];
#pragma unroll
    for (int i = 0; i < kEach; i++)
      if (first + i * kThreads < rows.size) written[first + i * kThreads] = held[i];
  }
}

int32_t copy(void* target, const void* source, Rows rows, int64_t bytes, void* stream) {
  if (rows.count < 0 || bytes < 0) return cudaErrorInvalidValue;
  const int chunk = chunk_of(address(target) | address(source) | bytes);
  return with_chunk(chunk, [&](auto unit) {
    using T = decltype(unit);
    rows.size = bytes / chunk;
    const dim3 grid(unsigned(ceil_div(rows.size, kThreads * 4)), unsigned(std::min<int64_t>(rows.count, kMostGrid)));
    return launch(copy_rows<T>, grid, stream, static_cast<T*>(target), static_cast<const T*>(source), rows);
  });
}

}  // namespace
}  // namespace foveate

using namespace foveate;

int32_t fv_cuda_take_rows(void* target, const void* source, const int32_t* rows, int64_t n, int64_t row_bytes,
                          void* stream) {
  if (!rows) return cudaErrorInvalidValue;
  return copy(target, source, {rows, nullptr, n, 0}, row_bytes, stream);
}

int32_t fv_cuda_put_rows(void* target, const void* source, const int32_t* rows, int64_t n, int64_t row_bytes,
                         void* stream) {
  if (!rows) return cudaErrorInvalidValue;
  return copy(target, source, {nullptr, rows, n, 0}, row_bytes, stream);
}

int32_t fv_cuda_repeat(void* target, const void* source, int64_t n, int64_t row_bytes, void* stream) {
  return copy(target, source, {nullptr, nullptr, n, 0}, row_bytes, stream);
}
