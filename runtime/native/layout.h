// Between [channels, height, width], as onnxruntime has it, and [height, width, channels], as the kernels do.
#pragma once
#include <cstdint>

namespace foveate {

// to[i·to_pitch + j] = from[j·from_pitch + i] for i < n, j < m: four by four, and so that neither side is walked in
// strides over and over.
void transpose(float* to, int64_t to_pitch, const float* from, int64_t from_pitch, int64_t n, int64_t m);

}  // namespace foveate
